"""One program's life at its tracker: fold events, make the world follow, append.

Every arrival goes the same way. `post` folds it at once, so the verdict never waits for a hop: siblings are cancelled
before anything is awaited, which is safe because a cancelled call can only lose work. Then `_act` states what is wanted
next, and `_append_pending` makes the events durable; nobody sees an answer before that, and a crash in between only
repeats calls. `holdings` makes drivers from claims and ends them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dynasor_serve.certaindex.answers import extract
from dynasor_serve.engines.client import CallRequest, Completion, EngineClient
from dynasor_serve.engines.errors import EngineError
from dynasor_serve.programs.events import (
    AnswersCompared,
    BudgetReached,
    CallFailed,
    CallFinished,
    DeadlineReached,
    Event,
    Outcome,
)
from dynasor_serve.programs.program import Program, directive, finish, fold, fold_log, with_cancelled
from dynasor_serve.programs.query import Branch, QueryId
from dynasor_serve.scheduling.demand import CallEnd
from dynasor_serve.state.program_log import AppendStatus, Claim, Holding, ProgramLog
from dynasor_serve.state.records import Record
from dynasor_serve.state.redis_client import StateFull, StateUnavailable
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.calls import GrantedCall, RunningCall
from dynasor_serve.tracker.clock import unix_ms
from dynasor_serve.tracker.equality import EqualityLink
from dynasor_serve.tracker.grants import SchedulerLink, Wanted

logger = logging.getLogger(__name__)

_APPEND_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 10.0

TextListener = Callable[[Branch, str, int, str], None]  # branch, attempt, offset, text


@dataclass(frozen=True, slots=True)
class DriverTools:
    """What every driver of a tracker works with."""

    tracker: str
    log: ProgramLog
    engines: EngineClient
    scheduler: SchedulerLink
    equality: EqualityLink
    metrics: Metrics
    retry_base_seconds: float
    max_text_characters: int


class ProgramDriver:
    """Owns one claimed program until it is final, fenced or released."""

    def __init__(self, claim: Claim, tools: DriverTools, on_end: Callable[[ProgramDriver], None]) -> None:
        """Raises `CorruptRecord`, `InvalidRule` or `ValueError` where the log cannot be folded."""
        records = claim.records()
        self.query_id: QueryId = claim.query_id
        self.epoch = claim.epoch
        self.program: Program = fold_log(record.event for record in records)  # pending records included
        self.length = len(records)  # of the log, as far as it is known here
        self.calls: dict[Branch, RunningCall] = {}
        self.listeners: set[TextListener] = set()
        self.claimed_at = asyncio.get_running_loop().time()  # seconds, monotonic
        self.is_over = False
        self._tools = tools
        self._on_end = on_end
        self._logged = self.program  # the fold of the log alone
        self._pending: list[Record] = []  # folded, not yet in the log
        self._is_behind = False  # somebody else appended; read before the next step
        self._will_act = False
        self._pump: asyncio.Task[None] | None = None
        self._starts: dict[Branch, int] = {}  # branch -> calls started here
        self._resting: dict[Branch, asyncio.TimerHandle] = {}  # branch -> the end of its pause between attempts
        self._asked: set[tuple[str, str]] = set()  # pairs that the evaluator has been asked about
        self._cancelled: list[tuple[int, int]] = []  # (completion, prompt) tokens of calls cancelled by the verdict
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def holding(self) -> Holding:
        """The program as its lease knows it."""
        running = sum(call.engine_call.tokens for call in self.calls.values())
        return Holding(self.query_id, self.epoch, running)

    def start(self) -> None:
        """Begins to work on the program."""
        delay = max(0.0, (self.program.deadline_ms - unix_ms()) / 1000)
        self._deadline = asyncio.get_running_loop().call_later(delay, self.post, DeadlineReached())
        if self.program.stop is not None:
            self._kick()
        else:
            self._act()

    def post(self, event: Event) -> None:
        """Something happened. The verdict on it is reached here, and siblings are cancelled here."""
        if self.is_over:
            return
        folded = fold(self.program, event)
        if folded is self.program:  # a repetition
            return
        self.program = folded
        assessment = folded.assessment
        self._pending.append(Record(event, unix_ms(), assessment.samples, assessment.certaindex))
        if folded.stop is not None:
            self._close_calls()
        elif not self._will_act:
            self._will_act = True  # once for all that arrives in this turn of the loop
            asyncio.get_running_loop().call_soon(self._act)
        self._kick()

    def catch_up(self) -> None:
        """Somebody appended to the log: read it."""
        if not self.is_over:
            self._is_behind = True
            self._kick()

    def grant(self, granted: GrantedCall) -> None:
        """The scheduler lets one call start. A grant that no longer fits goes back."""
        branch = granted.branch
        fits = not self.is_over and self.program.stop is None and branch not in self.calls
        if not fits or branch not in directive(self.program).wanted or granted.attempt != self._attempt(branch):
            self._tools.scheduler.ended(granted, CallEnd.NOT_STARTED, 0)
            return
        self._starts[branch] = self._starts.get(branch, 0) + 1
        engine_call = self._tools.engines.open(
            CallRequest(
                endpoint=granted.endpoint,
                query=self.program.query,
                branch=branch,
                request_id=f"{self.query_id}/{branch}/{granted.attempt}",
                priority=granted.priority,
            )
        )
        call = RunningCall(granted, engine_call)
        self.calls[branch] = call
        call.task = asyncio.create_task(self._run(call))

    def answers_compared(self, event: AnswersCompared) -> None:
        """The evaluator has decided pairs of this program."""
        self.post(event)

    def abandon(self) -> None:
        """The program is another tracker's, or is handed back: everything here ends without a trace."""
        self._close_calls()
        self._end()

    # --- from event to log ---

    def _kick(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._append_pending())

    async def _append_pending(self) -> None:
        """Appends until nothing is pending, with the final record where the program has stopped."""
        while not self.is_over and (self._pending or self._is_behind or self.program.stop is not None):
            try:
                if self._is_behind:
                    self._is_behind = False
                    self._fold_foreign(await self._tools.log.read(self.query_id, self.length))
                elif self.program.stop is not None:
                    await self._append_final()
                else:
                    await self._append()
            except StateUnavailable as error:
                self._log("the log cannot be written; trying again", error)
                await asyncio.sleep(_APPEND_RETRY_SECONDS * random.uniform(0.5, 1.5))
            except StateFull as error:
                self._log("Redis is full; the program waits", error)
                await asyncio.sleep(4 * _APPEND_RETRY_SECONDS * random.uniform(0.5, 1.5))
            except Exception:
                logger.exception("a program is dropped; its lease will lapse", extra={"query_id": self.query_id})
                self.abandon()

    async def _append(self) -> None:
        began = time.perf_counter()
        program, records = self.program, list(self._pending)
        reply = await self._tools.log.append(self.holding, self._tools.tracker, self.length, records)
        self._tools.metrics.observe(catalogue.APPEND_SECONDS, time.perf_counter() - began)
        if reply.status is AppendStatus.BEHIND:
            self._fold_foreign(reply.newer)
        elif reply.status is AppendStatus.FENCED:
            self._fenced()
        elif not self.is_over:
            del self._pending[: len(records)]
            self._logged, self.length = program, self.length + len(records)

    async def _append_final(self) -> None:
        program = self.program
        for tokens, prompt_tokens in self._cancelled:
            program = with_cancelled(program, tokens, prompt_tokens)
        final = finish(program, unix_ms())
        outcome = final.outcome
        records = [*self._pending, Record(final, unix_ms(), outcome.samples, outcome.certaindex)]
        reply = await self._tools.log.finish(
            self.holding, self._tools.tracker, program.query.tenant, self.length, records, outcome.phase
        )
        if reply.status is AppendStatus.BEHIND:
            self._fold_foreign(reply.newer)
        elif reply.status is AppendStatus.FENCED:
            # Also what a second try hears after a lost reply: the first one has settled the program.
            self._fenced()
        elif not self.is_over:
            self.program = fold(program, final)
            self._report(outcome)
            self._end()

    def _fold_foreign(self, records: Iterable[Record]) -> None:
        """Takes records that are in the log already (a cancellation, or our own after a lost reply), then our own."""
        for record in records:
            self._logged = fold(self._logged, record.event)
            self.length += 1
        pending, self._pending, self.program = self._pending, [], self._logged
        for record in pending:
            self.post(record.event)
        if self.program.stop is not None:
            self._close_calls()

    # --- from state to action ---

    def _act(self) -> None:
        """Makes the world follow the state: what should run is wanted, what cannot be decided here is asked."""
        self._will_act = False
        if self.is_over:
            return
        now = directive(self.program)
        if now.stop is not None:
            return
        startable = [branch for branch in now.wanted if branch not in self.calls and branch not in self._resting]
        self._tools.scheduler.want(
            Wanted(
                query_id=self.query_id,
                program=self.program,
                calls=tuple((branch, self._attempt(branch)) for branch in startable),
                remaining_knob=now.remaining_knob,
            )
        )
        questions = [pair for pair in now.compare if pair not in self._asked]
        if questions:
            self._asked.update(questions)
            self._tools.equality.ask(self, questions)

    async def _run(self, call: RunningCall) -> None:
        """One call from its request to its event."""
        branch, granted, engine_call = call.branch, call.granted, call.engine_call
        try:
            completion = await engine_call.completion(lambda text: self._progress(call, text))
        except EngineError as error:
            if call.is_cancelled:
                return
            del self.calls[branch]
            self._rest(branch)
            self.post(
                CallFailed(
                    branch, granted.attempt, error.as_program_error(), engine_call.tokens, engine_call.prompt_tokens
                )
            )
            end = CallEnd.WORKER_FAILED if error.is_retryable else CallEnd.REFUSED
            self._tools.scheduler.ended(granted, end, engine_call.tokens)
            self._tools.metrics.increment(catalogue.CALLS, outcome="lost")
            return
        if call.is_cancelled:
            return
        del self.calls[branch]
        self.post(self._evidence(call, completion))
        self._tools.scheduler.ended(granted, CallEnd.FINISHED, engine_call.tokens)
        self._tools.metrics.increment(catalogue.CALLS, outcome="finished")

    def _evidence(self, call: RunningCall, completion: Completion) -> CallFinished:
        engine_call = call.engine_call
        return CallFinished(
            branch=call.branch,
            attempt=call.granted.attempt,
            answer=extract(completion.text, self.program.query.answer_type),
            text=completion.text[: self._tools.max_text_characters],
            tokens=engine_call.tokens,
            prompt_tokens=engine_call.prompt_tokens,
            cached_prompt_tokens=engine_call.cached_prompt_tokens,
            finish_reason=completion.finish_reason,
        )

    def _progress(self, call: RunningCall, text: str) -> None:
        budget = self.program.query.max_tokens
        if budget:
            generated = self.program.ledger.spent + self.holding.running_tokens
            if generated >= budget:
                self.post(BudgetReached(generated))
        if text:
            for listener in self.listeners:
                listener(call.branch, call.granted.attempt, call.characters, text)
            call.characters += len(text)

    def _attempt(self, branch: Branch) -> str:
        """The id of the branch's next attempt; the epoch makes it unique across owners."""
        return f"{self.epoch}.{self._starts.get(branch, 0) + 1}"

    def _rest(self, branch: Branch) -> None:
        """A pause before the branch's next attempt, doubling with each failure, jittered."""
        tools = self._tools
        failures = self.program.failures.get(branch, 0)
        mean = min(_LONGEST_RETRY_SECONDS, tools.retry_base_seconds * 2**failures)

        def awake() -> None:
            self._resting.pop(branch, None)
            self._act()

        loop = asyncio.get_running_loop()
        self._resting[branch] = loop.call_later(mean * random.uniform(0.5, 1.5), awake)

    # --- the end ---

    def _close_calls(self) -> None:
        """Closes every running call's connection now and books what it had generated."""
        if not self.calls:
            return
        began = time.perf_counter()
        for call in self.calls.values():
            call.cancel()
            self._cancelled.append((call.engine_call.tokens, call.engine_call.prompt_tokens))
            self._tools.scheduler.ended(call.granted, CallEnd.CANCELLED, call.engine_call.tokens)
            self._tools.metrics.increment(catalogue.CALLS, outcome="cancelled")
        self.calls.clear()
        self._tools.metrics.observe(catalogue.VERDICT_TO_CLOSE_SECONDS, time.perf_counter() - began)

    def _fenced(self) -> None:
        self._tools.metrics.increment(catalogue.LEASE_LOSSES)
        logger.warning("the program is another tracker's or final", extra={"query_id": self.query_id})
        self.abandon()

    def _end(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        for timer in self._resting.values():
            timer.cancel()
        self._tools.scheduler.withdraw(self.query_id)
        self._on_end(self)

    def _report(self, outcome: Outcome) -> None:
        metrics, ledger = self._tools.metrics, outcome.ledger
        rule = outcome.rule.partition(":")[0]
        metrics.increment(catalogue.VERDICTS, rule=rule, verdict=outcome.stop_reason.value)
        metrics.observe(catalogue.CERTAINDEX_AT_STOP, outcome.certaindex)
        saved = ledger.saved_estimate
        for kind, tokens in (
            ("spent", ledger.spent),
            ("cancelled", ledger.cancelled),
            ("lost", ledger.lost),
            ("saved_estimate", max(0, saved)),
            ("exceeded_estimate", max(0, -saved)),
        ):
            metrics.increment(catalogue.TOKENS, tokens, kind=kind)
        logger.info(
            "a program is final",
            extra={
                "query_id": self.query_id,
                "phase": outcome.phase.value,
                "stop_reason": outcome.stop_reason.value,
                "samples": outcome.samples,
                "tokens_spent": ledger.spent,
                "tokens_saved_estimate": saved,
            },
        )

    def _log(self, message: str, error: Exception) -> None:
        logger.warning(message, extra={"query_id": self.query_id, "cause": str(error)})

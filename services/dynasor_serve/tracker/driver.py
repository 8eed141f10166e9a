"""One program's life at its tracker: what happens is folded, acted on, and made durable.

Every arrival goes the same way. `post` folds it at once (`journal`), so the verdict never waits for a hop: siblings are
cancelled before anything is awaited, which is safe because a cancelled call can only lose work. Then `_act` states what
is wanted next, and `_write_journal` makes the events durable; nobody sees an answer before that, and a crash in between
only repeats calls. `holdings` makes drivers from claims and ends them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
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
    ProgramError,
)
from dynasor_serve.programs.program import Program, directive
from dynasor_serve.programs.query import Branch, QueryId
from dynasor_serve.scheduling.demand import CallEnd
from dynasor_serve.state.program_log import Claim, Holding, ProgramLog
from dynasor_serve.state.redis_client import StateFull, StateUnavailable
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.calls import GrantedCall, RunningCall
from dynasor_serve.tracker.clock import unix_ms
from dynasor_serve.tracker.equality import EqualityLink
from dynasor_serve.tracker.grants import SchedulerLink, Wanted
from dynasor_serve.tracker.journal import Fenced, Journal
from dynasor_serve.tracker.reporting import report_outcome

logger = logging.getLogger(__name__)

_MOST_TEXT_CHARACTERS = 4_000_000  # of all samples of a program, per owner
_WRITE_RETRY_SECONDS = 0.25
_FULL_RETRY_SECONDS = 1.0
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
        self.query_id: QueryId = claim.query_id
        self.calls: dict[Branch, RunningCall] = {}
        self.listeners: set[TextListener] = set()
        self.is_over = False
        self._journal = Journal(claim, tools.log, tracker=tools.tracker, metrics=tools.metrics)
        self._tools = tools
        self._on_end = on_end
        self._will_act = False
        self._writing: asyncio.Task[None] | None = None
        self._starts: dict[Branch, int] = {}  # branch -> calls started here
        self._resting: dict[Branch, asyncio.TimerHandle] = {}  # branch -> the end of its pause between attempts
        self._text_room = _MOST_TEXT_CHARACTERS
        self._asked: set[tuple[str, str]] = set()  # pairs that the evaluator has been asked about
        self._cancelled: list[tuple[int, int]] = []  # (completion, prompt) tokens of calls cancelled by the verdict
        self._deadline: asyncio.TimerHandle | None = None
        self._lease: asyncio.TimerHandle | None = None

    @property
    def program(self) -> Program:
        """The program with all that has happened."""
        return self._journal.program

    @property
    def length(self) -> int:
        """Of its log, in records, as far as it is known here."""
        return self._journal.length

    @property
    def holding(self) -> Holding:
        """The program as its lease knows it."""
        return self._journal.holding(self._running_tokens)

    @property
    def _running_tokens(self) -> int:
        return sum(call.engine_call.tokens for call in self.calls.values())

    def start(self) -> None:
        """Begins to work on the program."""
        delay = max(0.0, (self.program.deadline_ms - unix_ms()) / 1000)
        self._deadline = asyncio.get_running_loop().call_later(delay, self.post, DeadlineReached())
        if self.program.stop is not None:
            self._kick()
        else:
            self._act()

    def hold_until(self, when: float) -> None:
        """Its lease is good until then, by the loop's clock. A timer, because without Redis every call hangs."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = asyncio.get_running_loop().call_at(when, self.lose, "could not be renewed")

    def lose(self, how: str) -> None:
        """The lease is gone: nothing of the program may go on here."""
        self._log(f"a lease {how}")
        self._tools.metrics.increment(catalogue.LEASE_LOSSES)
        self.abandon()

    def post(self, event: Event) -> None:
        """Something happened. The verdict on it is reached here, and siblings are cancelled here."""
        if self.is_over or not self._journal.take(event):
            return
        if self.program.stop is not None:
            self._close_calls()
        elif not self._will_act:
            self._will_act = True  # once for all that arrives in this turn of the loop
            asyncio.get_running_loop().call_soon(self._act)
        self._kick()

    def catch_up(self) -> None:
        """Somebody appended to the log: read it."""
        if not self.is_over:
            self._journal.mark_behind()
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

    def abandon(self) -> Holding:
        """The program is another tracker's, or is handed back: everything here ends without a trace.

        Returns the holding as it was, with what running calls and unwritten evidence had cost.
        """
        holding = self.holding
        self._close_calls()
        self._end()
        return holding

    # --- from event to log ---

    def _kick(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_journal())

    async def _write_journal(self) -> None:
        """Writes until there is nothing left to write, through any outage that the lease survives."""
        while not self.is_over and self._journal.has_work:
            try:
                outcome = await self._journal.write(self._running_tokens, self._cancelled)
                if outcome is not None:
                    report_outcome(self.query_id, outcome, self._tools.metrics)
                    self._end()
                elif self.program.stop is not None:  # somebody else's record may have ended it
                    self._close_calls()
            except Fenced:
                self.lose("is another tracker's, or its program final")
            except StateUnavailable as error:
                self._log("the log cannot be written; trying again", error)
                await asyncio.sleep(_WRITE_RETRY_SECONDS * random.uniform(0.5, 1.5))
            except StateFull as error:
                self._log("Redis is full; the program waits", error)
                await asyncio.sleep(_FULL_RETRY_SECONDS * random.uniform(0.5, 1.5))
            except Exception:
                logger.exception("a program is dropped; its lease will lapse", extra={"query_id": self.query_id})
                self.abandon()

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
        granted, engine_call = call.granted, call.engine_call
        event: CallFinished | CallFailed
        try:
            completion = await engine_call.completion(lambda text: self._progress(call, text))
            event, end = self._evidence(call, completion), CallEnd.FINISHED
        except EngineError as error:
            event = self._failure(call, error.as_program_error())
            end = CallEnd.WORKER_FAILED if error.is_retryable else CallEnd.REFUSED
        except Exception as error:
            logger.exception("a call failed unexpectedly", extra={"query_id": self.query_id})
            event = self._failure(call, ProgramError("INTERNAL", repr(error)[:200], retryable=True))
            end = CallEnd.WORKER_FAILED
        if call.is_cancelled:
            return
        del self.calls[call.branch]
        if end is not CallEnd.FINISHED:
            self._rest(call.branch)
        self.post(event)
        self._tools.scheduler.ended(granted, end, engine_call.tokens)
        self._tools.metrics.increment(catalogue.CALLS, outcome="finished" if end is CallEnd.FINISHED else "lost")

    def _failure(self, call: RunningCall, error: ProgramError) -> CallFailed:
        engine_call = call.engine_call
        return CallFailed(call.branch, call.granted.attempt, error, engine_call.tokens, engine_call.prompt_tokens)

    def _evidence(self, call: RunningCall, completion: Completion) -> CallFinished:
        engine_call = call.engine_call
        return CallFinished(
            branch=call.branch,
            attempt=call.granted.attempt,
            answer=extract(completion.text, self.program.query.answer_type),
            text=self._kept_text(completion.text),
            tokens=engine_call.tokens,
            prompt_tokens=engine_call.prompt_tokens,
            cached_prompt_tokens=engine_call.cached_prompt_tokens,
            finish_reason=completion.finish_reason,
        )

    def _kept_text(self, text: str) -> str:
        """What of a sample's text is kept: each is bounded, and all together, since a log is read whole."""
        kept = text[: min(self._tools.max_text_characters, self._text_room)]
        self._text_room -= len(kept)
        return kept

    def _progress(self, call: RunningCall, text: str) -> None:
        budget = self.program.query.max_tokens
        if budget:
            generated = self.program.ledger.spent + self._running_tokens
            if generated >= budget:
                self.post(BudgetReached(generated))
        if text:
            for listener in self.listeners:
                listener(call.branch, call.granted.attempt, call.characters, text)
            call.characters += len(text)

    def _attempt(self, branch: Branch) -> str:
        """The id of the branch's next attempt; the epoch makes it unique across owners."""
        return f"{self._journal.epoch}.{self._starts.get(branch, 0) + 1}"

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

    def _end(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        for timer in (self._deadline, self._lease):
            if timer is not None:
                timer.cancel()
        for timer in self._resting.values():
            timer.cancel()
        self._tools.scheduler.withdraw(self.query_id)
        self._on_end(self)

    def _log(self, message: str, error: Exception | None = None) -> None:
        logger.warning(message, extra={"query_id": self.query_id, "cause": str(error or "")})

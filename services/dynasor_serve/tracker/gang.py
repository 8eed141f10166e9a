"""The calls of one program that run now: started, listened to, and closed together at the verdict.

A call's end becomes an event for the program's `driver`; its place at the worker is given back in the same breath.
Between two attempts of a branch lies a pause that doubles.
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
from dynasor_serve.programs.events import CallFailed, CallFinished, ProgramError
from dynasor_serve.programs.query import Branch, Query, QueryId
from dynasor_serve.scheduling.demand import CallEnd
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.calls import GrantedCall, RunningCall
from dynasor_serve.tracker.grants import SchedulerLink

logger = logging.getLogger(__name__)

_MOST_TEXT_CHARACTERS = 4_000_000  # of all samples of a program, per owner
_LONGEST_PAUSE_SECONDS = 10.0

TextListener = Callable[[Branch, str, int, str], None]  # branch, attempt, offset, text


@dataclass(frozen=True, slots=True)
class GangTools:
    """What every gang of a tracker works with."""

    engines: EngineClient
    scheduler: SchedulerLink
    metrics: Metrics
    retry_base_seconds: float
    max_text_characters: int


class Gang:
    """One program's calls at its owner.

    Attributes:
        calls: those that run now, by branch.
        closed: (completion, prompt) tokens of those that `close` cancelled.
        listeners: told the live text.
    """

    def __init__(
        self,
        query_id: QueryId,
        epoch: int,
        query: Query,
        tools: GangTools,
        *,
        ended: Callable[[CallFinished | CallFailed], None],
        progressed: Callable[[], None],
        rested: Callable[[], None],
    ) -> None:
        """Builds a gang without calls.

        Args:
            query_id, epoch, query: whose calls.
            tools: shared by all gangs.
            ended: takes the event of a call that ended by itself.
            progressed: told after every event of a running call.
            rested: told when a branch may be tried again.
        """
        self.calls: dict[Branch, RunningCall] = {}
        self.closed: list[tuple[int, int]] = []
        self.listeners: set[TextListener] = set()
        self._query_id = query_id
        self._epoch = epoch
        self._query = query
        self._tools = tools
        self._ended = ended
        self._progressed = progressed
        self._rested = rested
        self._starts: dict[Branch, int] = {}  # branch -> calls started here
        self._failures: dict[Branch, int] = {}  # branch -> calls failed here
        self._resting: dict[Branch, asyncio.TimerHandle] = {}  # branch -> the end of its pause between attempts
        self._text_room = _MOST_TEXT_CHARACTERS

    @property
    def running_tokens(self) -> int:
        """Completion tokens that the running calls have generated so far."""
        return sum(call.engine_call.tokens for call in self.calls.values())

    def is_free(self, branch: Branch) -> bool:
        """Whether a call of the branch could start: none runs, and it does not rest."""
        return branch not in self.calls and branch not in self._resting

    def next_attempt(self, branch: Branch) -> str:
        """The id of the branch's next attempt; the epoch makes it unique across owners."""
        return f"{self._epoch}.{self._starts.get(branch, 0) + 1}"

    def start(self, granted: GrantedCall) -> None:
        """Opens a granted call."""
        branch = granted.branch
        self._starts[branch] = self._starts.get(branch, 0) + 1
        engine_call = self._tools.engines.open(
            CallRequest(
                endpoint=granted.endpoint,
                query=self._query,
                branch=branch,
                request_id=f"{self._query_id}/{branch}/{granted.attempt}",
                priority=granted.priority,
            )
        )
        call = RunningCall(granted, engine_call)
        self.calls[branch] = call
        call.task = asyncio.create_task(self._run(call))

    def close(self) -> None:
        """Closes every running call's connection now and notes what it had generated."""
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()
        if not self.calls:
            return
        began = time.perf_counter()
        for call in self.calls.values():
            call.cancel()
            self.closed.append((call.engine_call.tokens, call.engine_call.prompt_tokens))
            self._tools.scheduler.ended(call.granted, CallEnd.CANCELLED, call.engine_call.tokens)
            self._tools.metrics.increment(catalogue.CALLS, outcome="cancelled")
        self.calls.clear()
        self._tools.metrics.observe(catalogue.VERDICT_TO_CLOSE_SECONDS, time.perf_counter() - began)

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
            logger.exception("a call failed unexpectedly", extra={"query_id": self._query_id})
            event = self._failure(call, ProgramError("INTERNAL", repr(error)[:200], retryable=True))
            end = CallEnd.WORKER_FAILED
        if call.is_cancelled:
            return
        del self.calls[call.branch]
        if end is not CallEnd.FINISHED:
            self._rest(call.branch)
        self._ended(event)
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
            answer=extract(completion.text, self._query.answer_type),
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
        self._progressed()
        if text:
            for listener in self.listeners:
                listener(call.branch, call.granted.attempt, call.characters, text)
            call.characters += len(text)

    def _rest(self, branch: Branch) -> None:
        """A pause before the branch's next attempt, doubling with each failure, jittered."""
        failures = self._failures.get(branch, 0)
        self._failures[branch] = failures + 1
        mean = min(_LONGEST_PAUSE_SECONDS, self._tools.retry_base_seconds * 2**failures)

        def awake() -> None:
            self._resting.pop(branch, None)
            self._rested()

        loop = asyncio.get_running_loop()
        self._resting[branch] = loop.call_later(mean * random.uniform(0.5, 1.5), awake)

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

from dynasor_serve.certaindex.answers import extract, extract_in_open_box
from dynasor_serve.engines.client import CallRequest, Completion, EngineClient
from dynasor_serve.engines.errors import EngineError
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import (
    CallCancelled,
    CallFailed,
    CallFinished,
    Checkpointed,
    Probed,
    ProgramError,
)
from dynasor_serve.programs.query import Branch, Query, QueryId
from dynasor_serve.scheduling.demand import CallEnd
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.chain_watcher import ChainWatcher
from dynasor_serve.tracker.granted_call import GrantedCall
from dynasor_serve.tracker.grants import SchedulerLink
from dynasor_serve.tracker.running_call import RunningCall

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 10.0

CallEvent = CallFinished | CallFailed | CallCancelled | Checkpointed | Probed
TextListener = Callable[[Branch, str, int, str], None]  # branch, attempt, offset, text


@dataclass(frozen=True, slots=True)
class GangTools:
    """What every gang of a tracker works with."""

    engines: EngineClient
    scheduler: SchedulerLink
    metrics: Metrics
    retry_base_seconds: float
    max_text_characters: int  # of a sample that is only shown
    max_program_characters: int  # of all texts of a program


class _TextLimit(Exception):
    """A text that must be kept whole exceeds what is kept of its program."""


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
        post: Callable[[CallEvent], None],
        kept_characters: Callable[[], int],
        progressed: Callable[[], None],
        rested: Callable[[], None],
    ) -> None:
        """Builds a gang without calls.

        Args:
            query_id, epoch, query: whose calls.
            tools: shared by all gangs.
            post: takes what running calls tell, and how they ended.
            kept_characters: says how long all texts are that were posted for this program, to earlier owners too.
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
        self._post = post
        self._kept_characters = kept_characters
        self._progressed = progressed
        self._rested = rested
        self._starts: dict[Branch, int] = {}  # branch -> calls started here
        self._failures: dict[Branch, int] = {}  # branch -> calls failed here
        self._resting: dict[Branch, asyncio.TimerHandle] = {}  # branch -> the end of its pause between attempts

    @property
    def running_tokens(self) -> int:
        """Completion tokens of running calls that no event has told of yet."""
        return sum(call.unbooked_tokens for call in self.calls.values())

    def is_free(self, branch: Branch) -> bool:
        """Whether a call of the branch could start: none runs, and it does not rest."""
        return branch not in self.calls and branch not in self._resting

    def next_attempt(self, branch: Branch) -> str:
        """The id of the branch's next attempt; the epoch makes it unique across owners."""
        return f"{self._epoch}.{self._starts.get(branch, 0) + 1}"

    def start(self, granted: GrantedCall, plan: CallPlan) -> None:
        """Opens a granted call."""
        branch = granted.branch
        self._starts[branch] = self._starts.get(branch, 0) + 1
        engine_call = self._tools.engines.open(
            CallRequest(
                endpoint=granted.endpoint,
                query=self._query,
                plan=plan,
                branch=branch,
                request_id=f"{self._query_id}/{branch}/{granted.attempt}",
                priority=granted.priority,
            )
        )
        call = RunningCall(granted, plan, engine_call)
        if plan.watch is not None:
            call.watcher = ChainWatcher(
                granted,
                self._query,
                plan,
                engine_call,
                engines=self._tools.engines,
                metrics=self._tools.metrics,
                post=self._post,
            )
        self.calls[branch] = call
        self._tell(call, plan.turn())
        call.task = asyncio.create_task(self._run(call))

    def checkpoint(self) -> None:
        """Makes the text of all running chains durable, as far as it is known."""
        for call in list(self.calls.values()):
            # One before it may have ended the program, or taken the room.
            if call.watcher is not None and not call.is_cancelled and self._fits(call):
                call.watcher.checkpoint()

    def cancel(self, branch: Branch) -> None:
        """Closes one call that is no longer wanted, while the program goes on."""
        call = self.calls.pop(branch)
        tokens, prompt_tokens = self._closed(call)
        self._post(CallCancelled(branch, call.granted.attempt, tokens, prompt_tokens))

    def close(self) -> None:
        """Closes every running call's connection now and notes what it had generated."""
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()
        if not self.calls:
            return
        began = time.perf_counter()
        self.closed += [self._closed(call) for call in self.calls.values()]
        self.calls.clear()
        self._tools.metrics.observe(catalogue.VERDICT_TO_CLOSE_SECONDS, time.perf_counter() - began)

    def _closed(self, call: RunningCall) -> tuple[int, int]:
        """Closes a call and its probe; returns the (completion, prompt) tokens that nobody was told of."""
        tokens, prompt_tokens = call.unbooked_tokens, call.engine_call.prompt_tokens
        call.cancel()
        probe = call.watcher.close() if call.watcher is not None else None
        self._tools.scheduler.ended(call.granted, CallEnd.CANCELLED, call.engine_call.tokens)
        self._tools.metrics.increment(catalogue.CALLS, outcome="cancelled")
        return tokens, prompt_tokens + (probe.prompt_tokens if probe is not None else 0)

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
        except _TextLimit:
            most = self._tools.max_program_characters
            message = (
                f"what this query's calls say exceeds {most} characters, which is all that is kept of a query; ask for "
                "fewer samples or tokens, or raise the tracker's setting max_program_characters"
            )
            event, end = self._failure(call, ProgramError("TEXT_LIMIT", message)), CallEnd.REFUSED
        except Exception as error:
            logger.exception("a call failed unexpectedly", extra={"query_id": self._query_id})
            event = self._failure(call, ProgramError("INTERNAL", repr(error)[:200], retryable=True))
            end = CallEnd.WORKER_FAILED
        if call.is_cancelled:
            return
        del self.calls[call.branch]
        probe = call.watcher.close() if call.watcher is not None else None
        if probe is not None:
            self._post(probe)
        if end is not CallEnd.FINISHED:
            self._rest(call.branch)
        self._post(event)
        self._tools.scheduler.ended(granted, end, engine_call.tokens)
        self._tools.metrics.increment(catalogue.CALLS, outcome="finished" if end is CallEnd.FINISHED else "lost")

    def _failure(self, call: RunningCall, error: ProgramError) -> CallFailed:
        booked = call.watcher.booked_tokens if call.watcher is not None else 0
        engine_call = call.engine_call
        tokens = engine_call.tokens - booked
        return CallFailed(call.branch, call.granted.attempt, error, tokens, engine_call.prompt_tokens)

    def _evidence(self, call: RunningCall, completion: Completion) -> CallFinished:
        engine_call, watcher = call.engine_call, call.watcher
        return CallFinished(
            branch=call.branch,
            attempt=call.granted.attempt,
            answer=self._answer(call, completion),
            text=self._kept_text(call, completion.text if watcher is None else watcher.fresh_text),
            tokens=engine_call.tokens - (watcher.booked_tokens if watcher is not None else 0),
            prompt_tokens=engine_call.prompt_tokens,
            cached_prompt_tokens=engine_call.cached_prompt_tokens,
            finish_reason=completion.finish_reason,
            stopped_at=completion.stopped_at,
            reward=completion.reward,
            confidence=completion.confidence,
        )

    def _answer(self, call: RunningCall, completion: Completion) -> str | None:
        """The answer that the assistant's turn gives, the part that the call went on from included."""
        plan, answer_type = call.plan, self._query.answer_type
        if plan.judge is not None:
            return None
        answer = extract_in_open_box(completion.text, answer_type) if plan.opened_box else None
        return answer or extract(plan.turn() + completion.text, answer_type)

    @property
    def _text_room(self) -> int:
        """Characters that may still be kept: all of a program together are bounded, since a log is read whole."""
        return max(0, self._tools.max_program_characters - self._kept_characters())

    def _fits(self, call: RunningCall) -> bool:
        """Whether what a call has said can be kept as it must be."""
        return not call.plan.text_is_evidence or call.untold_characters <= self._text_room

    def _kept_text(self, call: RunningCall, text: str) -> str:
        """What of a call's text is kept."""
        if not self._fits(call):
            raise _TextLimit
        if call.plan.text_is_evidence:
            return text
        return text[: min(self._tools.max_text_characters, self._text_room)]

    def _progress(self, call: RunningCall, text: str) -> None:
        call.said_characters += len(text)
        if not self._fits(call):
            raise _TextLimit
        if call.watcher is not None:
            call.watcher.progressed(text)
        self._progressed()
        self._tell(call, text)

    def _tell(self, call: RunningCall, text: str) -> None:
        """Tells the listeners what a call has said."""
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

"""What happens beside a chain while it streams: its text is checkpointed, and probes ask it for its answer.

One stream, never read again: a probe is a short call of its own on the chain's prefix, at the chain's worker, under the
chain's grant. At most one runs at a time; what falls due meanwhile is asked afterwards, the newest only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from dynasor_serve.certaindex.probe_schedule import ProbeClock
from dynasor_serve.certaindex.trial_answer import read_trial
from dynasor_serve.engines.client import CallRequest, EngineCall, EngineClient
from dynasor_serve.engines.errors import EngineError
from dynasor_serve.programs.calls import CallPlan, ProbePrompt, Watch
from dynasor_serve.programs.events import CallCancelled, Checkpointed, Probed
from dynasor_serve.programs.query import Query
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.granted_call import GrantedCall

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 60.0  # one that takes longer is given up; the chain goes on meanwhile


@dataclass(frozen=True, slots=True)
class _Due:
    """A probe that is to be asked."""

    text: str  # of the chain, up to where it is asked about
    position: int  # tokens of the chain


class ChainWatcher:
    """Checkpoints and probes one running chain.

    Attributes:
        booked_tokens: completion tokens of the call that checkpoints have told of.
        told_characters: of text that they have told of.
    """

    def __init__(
        self,
        granted: GrantedCall,
        query: Query,
        plan: CallPlan,
        call: EngineCall,
        *,
        engines: EngineClient,
        metrics: Metrics,
        post: Callable[[Checkpointed | Probed | CallCancelled], None],
    ) -> None:
        assert plan.watch is not None, "only chains are watched"
        self.booked_tokens = 0
        self.told_characters = 0
        self._watch: Watch = plan.watch
        self._granted = granted
        self._query = query
        self._call = call
        self._engines = engines
        self._metrics = metrics
        self._post = post
        self._clock = ProbeClock(plan.watch.schedule, plan.watch.position)
        self._parts = [plan.continuation]  # the text of the chain
        self._fresh: list[str] = []  # since the last checkpoint
        self._probes = 0
        self._probe: EngineCall | None = None
        self._task: asyncio.Task[None] | None = None
        self._next: _Due | None = None
        self._is_closed = False

    @property
    def fresh_text(self) -> str:
        """The text since the last checkpoint."""
        return "".join(self._fresh)

    @property
    def probe_tokens(self) -> int:
        """Completion tokens that the running probe has generated."""
        return self._probe.tokens if self._probe is not None else 0

    def progressed(self, text: str) -> None:
        """The chain has new text."""
        position = self._watch.position + self._call.tokens
        if text:
            self._parts.append(text)
            self._fresh.append(text)
        is_due = self._clock.due(text, position)
        if is_due or self._call.tokens - self.booked_tokens >= self._watch.checkpoint_tokens:
            self.checkpoint()
        if is_due and self._watch.probe is not None and not self._is_closed:  # the checkpoint may have ended it
            self._next = _Due(self._clock.cut("".join(self._parts)), position)
            if self._task is None:
                self._task = asyncio.create_task(self._ask(self._watch.probe))

    def checkpoint(self) -> None:
        """Makes the text durable as far as it is known."""
        tokens = self._call.tokens
        if tokens == self.booked_tokens:
            return
        text, self._fresh, self.booked_tokens = self.fresh_text, [], tokens
        self.told_characters += len(text)
        granted, position = self._granted, self._watch.position + tokens
        self._post(Checkpointed(granted.branch, granted.attempt, position, text, self._call.lowest_confidence))

    def close(self) -> CallCancelled | None:
        """Ends the running probe now. Returns what it had cost."""
        self._next, self._is_closed = None, True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        return self._closed_probe()

    async def _ask(self, prompt: ProbePrompt) -> None:
        """Asks what is due, until nothing is."""
        try:
            while (due := self._next) is not None:
                self._next = None
                await self._probe_at(due, prompt)
        except Exception:
            logger.exception("a probe failed unexpectedly", extra={"query_id": self._granted.query_id})
        finally:
            self._task = None

    async def _probe_at(self, due: _Due, prompt: ProbePrompt) -> None:
        self._probes += 1
        granted = self._granted
        probe = self._probe = self._engines.open(
            CallRequest(
                endpoint=granted.endpoint,
                query=self._query,
                plan=CallPlan(
                    continuation=due.text,
                    suffix=prompt.suffix,
                    closes_thinking=prompt.closes_thinking,
                    opened_box=prompt.opened_box,
                    max_tokens=prompt.max_tokens,
                    temperature=prompt.temperature,
                    stop=(),
                    asks_probability=True,
                ),
                branch=granted.branch,
                request_id=f"{granted.query_id}/{granted.branch}/{self._attempt}",
                priority=granted.priority - 1,  # a verdict waits for it
            )
        )
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                completion = await probe.completion(lambda _: None)
        except (EngineError, TimeoutError) as error:
            probe.close()
            logger.info("a probe got no reply", extra={"query_id": granted.query_id, "cause": str(error)[:200]})
            self._metrics.increment(catalogue.PROBES, outcome="failed")
            lost = self._closed_probe()
            if lost is not None:
                self._post(lost)
            return
        self._probe = None
        trial = read_trial(completion.text, self._query.answer_type, opened_box=prompt.opened_box)
        outcome = "empty" if trial.answer is None else "hesitant" if trial.hesitant else "answered"
        self._metrics.increment(catalogue.PROBES, outcome=outcome)
        self._post(
            Probed(
                branch=granted.branch,
                attempt=granted.attempt,
                position=due.position,
                answer=trial.answer,
                is_hesitant=trial.hesitant,
                confidence=completion.probability,
                tokens=probe.tokens,
                prompt_tokens=probe.prompt_tokens,
                cached_prompt_tokens=probe.cached_prompt_tokens,
            )
        )

    def _closed_probe(self) -> CallCancelled | None:
        probe, self._probe = self._probe, None
        if probe is None:
            return None
        probe.close()
        return CallCancelled(self._granted.branch, self._attempt, probe.tokens, probe.prompt_tokens)

    @property
    def _attempt(self) -> str:
        """Of the latest probe: it is told apart from its chain's call."""
        return f"{self._granted.attempt}.p{self._probes}"

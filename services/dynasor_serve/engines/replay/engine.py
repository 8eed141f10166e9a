"""When does a call run, and when is each of its tokens due?

An `Engine` stands for one vLLM server of one model: a number of slots, a waiting queue before them, a prefix
cache, and a clock that says when tokens are done. `app` holds a slot for each choice of a request and writes
what `next_events` says is due; leaving the slot, by whatever way, frees it in the same moment.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from dynasor_serve.engines.replay.emission import FinishReason
from dynasor_serve.engines.replay.metrics import EngineMetrics, EngineState
from dynasor_serve.engines.replay.prefix_cache import PrefixCache
from dynasor_serve.engines.replay.timing import Timing

# Timers fire on whole milliseconds (uvloop): what is due within one counts as due, or a call would spin until then.
_TIMER_SECONDS: Final = 0.001

_EVENTS_AT_ONCE: Final = 256  # bound of what one write holds


@dataclass(slots=True, eq=False)
class Call:
    """One choice of a request on its way through the engine.

    Attributes:
        prompt: The prompt's text, for the prefix cache.
        prompt_tokens: Its length as reported.
        priority: Smaller goes first, where the engine orders by priority.
        cache_salt: Prompts of different salts share no cached prefix.
        cached_tokens: Prompt tokens found in the prefix cache; known at admission.
        generated_tokens: Tokens decoded so far.
    """

    prompt: str
    prompt_tokens: int
    priority: int = 0
    cache_salt: str = ""
    cached_tokens: int = 0
    generated_tokens: int = 0
    # Engine clock, in seconds.
    arrived_at: float = 0.0
    admitted_at: float = 0.0
    last_token_at: float = 0.0


@dataclass(order=True, slots=True)
class _Waiting:
    """A call's place in the queue: smaller priority first, then earlier arrival."""

    priority: int
    arrival: int
    admitted: asyncio.Future[None] = field(compare=False)


class Engine:
    """Slots, waiting queue and token clock of one model.

    Args:
        timing: How fast it is.
        max_num_seqs: Calls that run side by side; the others wait.
        by_priority: Whether the waiting queue is ordered by (priority, arrival), else by arrival alone.
        prefix_cache: What of its prompts it has seen.
        kv_cache_tokens: Size of the KV cache in tokens, for the usage gauge.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        *,
        timing: Timing,
        max_num_seqs: int,
        by_priority: bool,
        prefix_cache: PrefixCache,
        kv_cache_tokens: int,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.metrics = EngineMetrics()
        self._timing = timing
        self._max_num_seqs = max_num_seqs
        self._by_priority = by_priority
        self._prefix_cache = prefix_cache
        self._kv_cache_tokens = kv_cache_tokens
        self._clock = clock
        self._sleep = sleep
        self._running: set[Call] = set()
        self._queue: list[_Waiting] = []  # heap
        self._waking = 0  # calls that were given a slot and have not woken up yet
        self._arrivals = 0

    @property
    def state(self) -> EngineState:
        """What it is doing now."""
        used = sum(call.prompt_tokens + call.generated_tokens for call in self._running)
        return EngineState(
            running=len(self._running),
            waiting=len(self._queue) + self._waking,
            kv_cache_usage=min(1.0, used / self._kv_cache_tokens),
        )

    @property
    def load(self) -> int:
        """Calls that run or wait."""
        return len(self._running) + len(self._queue) + self._waking

    @asynccontextmanager
    async def slot(self, call: Call) -> AsyncIterator[None]:
        """Hold a slot for a call, after waiting for one in the queue.

        A call that leaves without `finish` is an aborted one, and is counted as vLLM counts it: its tokens are in
        the totals, it is in no per-request metric.
        """
        call.arrived_at = self._clock()
        if self._queue or self._is_full:
            await self._wait_for_slot(call)
        self._running.add(call)
        try:
            self._admit(call)
            yield
        finally:
            self._running.discard(call)
            self._fill_slots()

    async def next_events(self, call: Call, events: Sequence[int], position: int) -> int:
        """Wait until events of a running call are due, and return the position behind the last of them.

        Token k is due at the first token's time plus k − 1 decode times, however long the reader takes over each
        event: a reader that is late finds several due at once. Where decoding takes no time, nothing sleeps.

        Args:
            call: A call that holds a slot.
            events: Running token count at each event (`emission.plan_events`).
            position: First event that was not returned yet.
        """
        if position == 0:
            await self._first_token(call, at_least_one=events[-1] > 0)
        await self._sleep_until_token(call, events[position])
        limit = min(len(events), position + _EVENTS_AT_ONCE)
        now = self._clock() + _TIMER_SECONDS
        while position < limit and (due := self._due(call, events[position])) <= now:
            self._count_tokens(call, events[position], due)
            position += 1
        return position

    def finish(self, call: Call, reason: FinishReason) -> None:
        """Count a call as answered to its end."""
        self.metrics.finished[reason] += 1
        self.metrics.queue_seconds.observe(call.admitted_at - call.arrived_at)
        self.metrics.end_to_end_seconds.observe(self._clock() - call.arrived_at)

    # --- slots and queue

    @property
    def _is_full(self) -> bool:
        return len(self._running) + self._waking >= self._max_num_seqs

    async def _wait_for_slot(self, call: Call) -> None:
        waiting = _Waiting(
            priority=call.priority if self._by_priority else 0,
            arrival=self._arrivals,
            admitted=asyncio.get_running_loop().create_future(),
        )
        self._arrivals += 1
        heapq.heappush(self._queue, waiting)
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
                heapq.heapify(self._queue)
            if not waiting.admitted.cancelled():  # a slot was given in the moment of leaving: pass it on
                self._waking -= 1
                self._fill_slots()
            raise
        self._waking -= 1

    def _fill_slots(self) -> None:
        while self._queue and not self._is_full:
            waiting = heapq.heappop(self._queue)
            if not waiting.admitted.done():  # done: it was cancelled and is about to leave
                waiting.admitted.set_result(None)
                self._waking += 1

    def _admit(self, call: Call) -> None:
        call.admitted_at = self._clock()
        call.cached_tokens = self._prefix_cache.look_up_and_insert(
            call.prompt, prompt_tokens=call.prompt_tokens, salt=call.cache_salt
        )
        self.metrics.prefix_cache_queries += call.prompt_tokens
        self.metrics.prefix_cache_hits += call.cached_tokens

    # --- token clock

    async def _first_token(self, call: Call, *, at_least_one: bool) -> None:
        due = call.admitted_at + self._timing.first_token_after(call.prompt_tokens - call.cached_tokens)
        await self._sleep_until(due)
        call.last_token_at = due
        self.metrics.prompt_tokens += call.prompt_tokens
        if at_least_one:
            call.generated_tokens = 1
            self.metrics.generation_tokens += 1
            self.metrics.first_token_seconds.observe(self._clock() - call.arrived_at)

    async def _sleep_until_token(self, call: Call, token: int) -> None:
        """Sleep until a token is due; an abort meanwhile counts the tokens that were decoded before it."""
        try:
            await self._sleep_until(self._due(call, token))
        except asyncio.CancelledError:
            elapsed = self._clock() - call.last_token_at
            decoded = self._timing.decoded_within(elapsed, len(self._running))
            self._count_tokens(call, min(token, call.generated_tokens + decoded), self._clock())
            raise

    async def _sleep_until(self, due: float) -> None:
        # The tolerance keeps out sleeps that would not last, and with them a turn of the event loop per event.
        while (seconds := due - self._clock()) > _TIMER_SECONDS:
            await self._sleep(seconds)

    def _due(self, call: Call, token: int) -> float:
        return call.last_token_at + self._timing.decode_after(token - call.generated_tokens, len(self._running))

    def _count_tokens(self, call: Call, token: int, at: float) -> None:
        tokens = token - call.generated_tokens
        if tokens > 0:
            self.metrics.generation_tokens += tokens
            self.metrics.inter_token_seconds.observe((at - call.last_token_at) / tokens, tokens)
            call.generated_tokens = token
            call.last_token_at = at

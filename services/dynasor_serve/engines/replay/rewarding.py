"""How does a replay stand for a reward model? Answers requests of `pooling` with recorded rewards.

Each path is a call without output: it waits for a slot in the engine and for the prefill of what is not cached.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Mapping, Sequence

from aiohttp import web

from dynasor_serve.engines.replay.engine import Call, Engine
from dynasor_serve.engines.replay.errors import InjectedFault
from dynasor_serve.engines.replay.faults import BAD_REWARDS, HANGING, Fault, FaultPlan
from dynasor_serve.engines.replay.generation import GARBAGE, REQUEST_ID_HEADER, close_connection, until_cancelled
from dynasor_serve.engines.replay.in_flight import InFlight
from dynasor_serve.engines.replay.playback import Playback
from dynasor_serve.engines.replay.pooling import RewardFace, parse_pooling, pooling_body, raw
from dynasor_serve.engines.replay.prefix_cache import approximate_tokens
from dynasor_serve.engines.replay.suffixes import Ask


class Rewarding:
    """Answers requests for rewards.

    Args:
        playback: Finds the recorded rewards.
        engines: One per served model.
        kind: What it stands for.
        faults: Which requests fail on purpose.
        in_flight: Counts the requests.
    """

    def __init__(
        self,
        *,
        playback: Playback,
        engines: Mapping[str, Engine],
        kind: RewardFace,
        faults: FaultPlan,
        in_flight: InFlight,
    ) -> None:
        self._playback = playback
        self._engines = engines
        self._kind = kind
        self._faults = faults
        self._in_flight = in_flight

    async def answer(self, http: web.Request, face: RewardFace) -> web.StreamResponse:
        """Answer one request.

        Raises:
            RequestRefused: It cannot be answered.
        """
        with self._in_flight.counted():
            request = parse_pooling(face, await http.read())
            request_id = http.headers.get(REQUEST_ID_HEADER) or request.request_id or uuid.uuid4().hex[:16]
            model = self._playback.served(request.model)
            rewards = [self._playback.rewards(model, prompt) for prompt in request.prompts]
            fault = self._faults.draw(request_id, Ask.JUDGE)
            if fault is Fault.ERROR_500:
                raise InjectedFault("This request fails because of --fault error-500.")
            calls = [
                Call(prompt=prompt.text, prompt_tokens=approximate_tokens(prompt.text), priority=request.priority)
                for prompt in request.prompts
            ]
            await self._read_all(self._engines[model], calls, fault)
            if fault is Fault.CUT_STREAM:
                await close_connection(http)
            if fault is Fault.GARBAGE:
                return web.Response(body=GARBAGE, content_type="application/json")
            body = pooling_body(
                face,
                [_values(steps, fault, is_raw=request.is_raw) for steps in rewards],
                by_step=self._kind is RewardFace.POOLING,
                request_id=request_id,
                model=model,
                created=int(time.time()),
                prompt_tokens=sum(call.prompt_tokens for call in calls),
            )
            return web.Response(body=body, content_type="application/json")

    async def _read_all(self, engine: Engine, calls: Sequence[Call], fault: Fault | None) -> None:
        async with asyncio.TaskGroup() as reading:
            for call in calls:
                reading.create_task(_read(engine, call, fault))


async def _read(engine: Engine, call: Call, fault: Fault | None) -> None:
    """Take a slot for the time that an engine needs to read a prompt."""
    async with engine.slot(call):
        if fault in HANGING:
            await until_cancelled()
        await engine.next_events(call, (0,), 0)
        engine.finish(call, "stop")


def _values(rewards: Sequence[float], fault: Fault | None, *, is_raw: bool) -> Sequence[float]:
    """Return rewards as they are asked for. No finite raw value is wild, so infinity stands for it."""
    bad = None if fault is None else BAD_REWARDS.get(fault)
    if bad is not None:
        return [math.inf if is_raw and fault is Fault.WILD_REWARD else bad] * len(rewards)
    return [raw(reward) for reward in rewards] if is_raw else rewards

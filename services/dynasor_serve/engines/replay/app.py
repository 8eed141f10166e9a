"""Composition root of the replay engine: builds the parts, serves, and ends in order.

`serve` is the life of the process: load traces, listen, wait for SIGTERM, drain, leave.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from aiohttp import web

from dynasor_serve.engines.replay.engine import Engine
from dynasor_serve.engines.replay.generation import Generation
from dynasor_serve.engines.replay.handlers import Handlers, echo_request_id, errors_as_vllm
from dynasor_serve.engines.replay.in_flight import InFlight
from dynasor_serve.engines.replay.playback import Playback, PlaybackShape
from dynasor_serve.engines.replay.pooling import RewardFace
from dynasor_serve.engines.replay.prefix_cache import PrefixCache
from dynasor_serve.engines.replay.records import Record
from dynasor_serve.engines.replay.rewarding import Rewarding
from dynasor_serve.engines.replay.settings import ReplaySettings
from dynasor_serve.engines.replay.timing import Timing
from dynasor_serve.engines.replay.trace_index import TraceIndex
from dynasor_serve.engines.replay.traces import TraceFormatError, read_records

_log = logging.getLogger(__name__)

#: The requests of an application, for `drain`.
IN_FLIGHT: Final = web.AppKey("in_flight", InFlight)

_BODY_BYTES: Final = 64 * 2**20
_CLOSING_SECONDS: Final = 0.2  # for connections whose requests have ended, or were cut after the drain


async def serve(settings: ReplaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests within the shutdown timeout.

    Raises:
        TraceFormatError: The traces cannot be used.
    """
    app = build_app(settings, read_records(settings.traces))
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)

    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSING_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
        port = runner.addresses[0][1]
        sys.stdout.write(f"listening on http://{settings.host}:{port}\n")  # whoever started it with port 0 reads this
        sys.stdout.flush()
        await stop.wait()
        # As vLLM: the socket stays open, /health stays 200, new requests for tokens or rewards get 500.
        all_ended = await app[IN_FLIGHT].drain(settings.shutdown_timeout)
        _log.info("drained" if all_ended else "shutdown timeout: cutting the requests that still run")
    finally:
        await runner.cleanup()


def build_app(settings: ReplaySettings, records: Iterable[Record]) -> web.Application:
    """Build the application; run it with `handler_cancellation=True`, or clients that leave keep their slots.

    Raises:
        TraceFormatError: The records are none, or lack a served model.
    """
    served = settings.served_model_name
    if settings.reward is None:
        index = TraceIndex(record for record in records if not served or record.model in served)
    else:  # a reward model judges what any model said
        index = TraceIndex(records, names=served)
    if missing := set(served) - set(index.models):
        raise TraceFormatError(f"no record of model {', '.join(sorted(missing))}; check --served-model-name")
    if not len(index):
        raise TraceFormatError("the traces hold no record; the replay engine answers from recorded ones")
    _log.info("%d recordings of %d models", len(index), len(index.models))

    engines = {model: _build_engine(settings) for model in index.models}
    shape = PlaybackShape(
        max_model_len=settings.max_model_len,
        stream_interval=settings.stream_interval,
        events_per_response=settings.events_per_response,
        characters_per_token=settings.characters_per_token,
        block_size=settings.block_size,
    )
    faults, in_flight = settings.fault_plan, InFlight()
    playback = Playback(index=index, engines=engines, shape=shape, faults=faults)
    handlers = Handlers(
        generation=Generation(playback=playback, in_flight=in_flight),
        rewarding=Rewarding(
            playback=playback,
            engines=engines,
            kind=settings.reward or RewardFace.CLASSIFY,
            faults=faults,
            in_flight=in_flight,
        ),
        reward=settings.reward,
        playback=playback,
        engines=engines,
        max_model_len=settings.max_model_len,
        version=_version(),
    )
    app = web.Application(middlewares=[errors_as_vllm], client_max_size=_BODY_BYTES)
    app[IN_FLIGHT] = in_flight
    app.add_routes(handlers.routes())
    app.on_response_prepare.append(echo_request_id)
    return app


def _build_engine(settings: ReplaySettings) -> Engine:
    """Build the engine of one model: several models in one process are as several servers."""
    timing = Timing(
        first_token_seconds=settings.ttft_ms / 1000,
        seconds_per_output_token=settings.time_per_output_token_ms / 1000,
        prefill_seconds_per_token=settings.prefill_ms_per_token / 1000,
        slowdown_per_running_call=settings.batch_slowdown,
        speed=settings.speed,
    )
    blocks = settings.kv_cache_tokens // settings.block_size if settings.enable_prefix_caching else 0
    return Engine(
        timing=timing,
        max_num_seqs=settings.max_num_seqs,
        by_priority=settings.scheduling_policy == "priority",
        prefix_cache=PrefixCache(block_size=settings.block_size, capacity_blocks=blocks),
        kv_cache_tokens=settings.kv_cache_tokens,
        clock=time.monotonic,
    )


def _version() -> str:
    try:
        return f"{version('dynasor-serve')}+replay"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+replay"

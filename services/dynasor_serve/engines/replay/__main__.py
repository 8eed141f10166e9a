"""`python -m dynasor_serve.engines.replay`: run the replay engine."""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop

from dynasor_serve.engines.replay.app import serve
from dynasor_serve.engines.replay.settings import read_settings


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit code: 0, or 2 when the settings or the traces do not fit."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except ValueError as error:  # of settings and traces alike: what the operator gave does not fit
        sys.stderr.write(f"replay engine: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m dynasor_serve.tracker`"""

from dynasor_serve.rpc.process import run
from dynasor_serve.telemetry.logs import configure_logging
from dynasor_serve.tracker.app import TrackerApp
from dynasor_serve.tracker.settings import TrackerSettings


def main() -> None:
    """Runs the tracker until SIGTERM."""
    settings = TrackerSettings.read()
    configure_logging("tracker", settings.log_level, settings.log_format)

    async def build() -> TrackerApp:
        return TrackerApp(settings)

    run(build)


if __name__ == "__main__":
    main()

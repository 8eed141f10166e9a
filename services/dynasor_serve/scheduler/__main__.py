"""`python -m dynasor_serve.scheduler`"""

from dynasor_serve.rpc.process import run
from dynasor_serve.scheduler.app import SchedulerApp
from dynasor_serve.scheduler.settings import SchedulerSettings
from dynasor_serve.telemetry.logs import configure_logging


def main() -> None:
    """Runs the scheduler until SIGTERM."""
    settings = SchedulerSettings.read()
    configure_logging("scheduler", settings.log_level, settings.log_format)

    async def build() -> SchedulerApp:
        return SchedulerApp(settings)

    run(build)


if __name__ == "__main__":
    main()

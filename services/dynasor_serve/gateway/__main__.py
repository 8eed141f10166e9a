"""`python -m dynasor_serve.gateway`"""

from dynasor_serve.gateway.app import GatewayApp
from dynasor_serve.gateway.settings import GatewaySettings
from dynasor_serve.rpc.process import run
from dynasor_serve.telemetry.logs import configure_logging


def main() -> None:
    """Runs the gateway until SIGTERM."""
    settings = GatewaySettings.read()
    configure_logging("gateway", settings.log_level, settings.log_format)

    async def build() -> GatewayApp:
        return GatewayApp(settings)

    run(build)


if __name__ == "__main__":
    main()

"""`python -m dynasor_serve.evaluator`"""

import os

# The evaluator starts processes while gRPC's threads run. gRPC's fork handlers are for those that go on without an
# exec, and on a busy machine they crash some before theirs. gRPC looks here once, when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

from dynasor_serve.evaluator.app import EvaluatorApp
from dynasor_serve.evaluator.settings import EvaluatorSettings
from dynasor_serve.rpc.process import run
from dynasor_serve.telemetry.logs import configure_logging


def main() -> None:
    """Runs the evaluator until SIGTERM."""
    settings = EvaluatorSettings.read()
    configure_logging("evaluator", settings.log_level, settings.log_format)

    async def build() -> EvaluatorApp:
        return EvaluatorApp(settings)

    run(build)


if __name__ == "__main__":
    main()

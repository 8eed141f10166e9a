"""Settings that all processes share, and how settings are read: flags, then environment, then a TOML file.

Unknown keys are refused wherever they stand: a misspelt setting, silently ignored, is a fault found in production.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

# What Kubernetes adds to the environment of every pod for a Service named `dynasor-gateway`; not meant for us.
_SERVICE_LINK = re.compile(
    r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


class ProcessSettings(BaseSettings):
    """What every process is told. Subclasses set `env_prefix` and add their own fields."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", cli_kebab_case=True, cli_avoid_json=True)

    name: str = Field(description="Identity of this process among its peers; stable across restarts (the pod's name).")
    listen: str = Field(default="0.0.0.0:0", description="Address of the gRPC server, HOST:PORT; port 0 picks one.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="Port of /metrics; 0 picks one.")
    metrics_host: str = Field(default="0.0.0.0", description="Address of /metrics.")  # noqa: S104
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log line."
    )
    log_format: Literal["json", "text"] = Field(default="json", description="json for machines, text for people.")
    drain_seconds: float = Field(
        default=30.0, ge=0, description="Longest drain after SIGTERM, in seconds; below the pod's grace period."
    )

    @classmethod
    def read(cls) -> Self:
        """Reads flags, environment and file; prints what is wrong and exits 2 where something is."""
        prefix = str(cls.model_config.get("env_prefix", ""))
        try:
            _refuse_unknown_environment(prefix, set(cls.model_fields))
            return cls(_cli_parse_args=True, _cli_prog_name=f"python -m {cls.__module__.rsplit('.', 1)[0]}")
        except (ValidationError, SettingsError, ValueError) as error:
            sys.stderr.write(f"settings: {error}\n")
            raise SystemExit(2) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        prefix = str(cls.model_config.get("env_prefix", ""))
        file = os.environ.get(f"{prefix}CONFIG_FILE", "")
        if file and not Path(file).is_file():
            raise ValueError(f"{prefix}CONFIG_FILE is {file}, and there is no such file")
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, toml_file=file)) if file else sources


class StatefulSettings(ProcessSettings):
    """What the processes are told that share state in Redis."""

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis, or any server of its protocol: redis:// or rediss:// URL.",
    )


def _refuse_unknown_environment(prefix: str, fields: set[str]) -> None:
    known = {f"{prefix}{field.upper()}" for field in fields} | {f"{prefix}CONFIG_FILE"}
    for variable, value in os.environ.items():
        is_service_link = _SERVICE_LINK.fullmatch(variable.removeprefix(prefix)) or value.startswith(
            ("tcp://", "udp://")
        )
        if variable.startswith(prefix) and variable.upper() not in known and not is_service_link:
            close = difflib.get_close_matches(variable, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
            raise ValueError(f"unknown environment variable {variable}{hint}")

"""The replay engine's settings: read once at start from flags and the environment, unknown keys refused."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dynasor_serve.engines.replay.faults import Fault, FaultPlan, FaultRate
from dynasor_serve.engines.replay.pooling import RewardFace

ENV_PREFIX: Final = "DYNASOR_REPLAY_"

# What Kubernetes adds to the environment of every pod for a Service named `dynasor-replay`; not meant for us.
_SERVICE_LINK_ENDINGS: Final = ("SERVICE_HOST", "SERVICE_PORT", "_TCP", "_PROTO", "_ADDR")


class ReplaySettings(BaseSettings):
    """What a replay engine serves, how fast, and how it fails.

    A flag `--like-this` wins over `DYNASOR_REPLAY_LIKE_THIS`; lists are comma-separated in the environment.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    traces: Annotated[tuple[Path, ...], NoDecode] = Field(
        min_length=1,
        description="trace files (.jsonl, .jsonl.gz) or directories of them; of equal records the first wins",
    )
    served_model_name: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="models to serve; default: every model that the traces were recorded from. With --reward the names "
        "of reward models, each with every recorded reward",
    )
    reward: RewardFace | None = Field(
        default=None,
        description="be a reward model of this kind instead: classify (also /pooling), score (also /classify and "
        "/pooling) or pooling, which scores each step",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 picks a free one and prints it")

    ttft_ms: float = Field(default=5.0, ge=0, description="milliseconds to the first token, besides prefill")
    time_per_output_token_ms: float = Field(
        default=1.0,
        ge=0,
        description="milliseconds per output token of a call alone; 0 with --ttft-ms 0: no waiting",
    )
    prefill_ms_per_token: float = Field(
        default=0.0, ge=0, description="milliseconds per prompt token that is not in the prefix cache"
    )
    batch_slowdown: float = Field(
        default=0.0,
        ge=0,
        description="growth of the time per token by each further running call, as a fraction",
    )
    speed: float = Field(default=1.0, gt=0, description="everything goes this many times as fast")

    max_num_seqs: int = Field(default=64, ge=1, description="calls that run side by side, per model; the others wait")
    scheduling_policy: Literal["priority", "fcfs"] = Field(
        default="priority",
        description="order of the waiting queue: by (priority, arrival), or by arrival alone",
    )
    max_model_len: int = Field(default=262_144, ge=1, description="longest prompt plus completion, in tokens")
    block_size: int = Field(default=16, ge=1, description="tokens per block of the prefix cache")
    kv_cache_tokens: int = Field(
        default=1_048_576,
        ge=1,
        description="size of the KV cache in tokens: bounds the prefix cache, scales the gauge",
    )
    enable_prefix_caching: bool = Field(default=True, description="remember prompts; off: nothing is ever cached")

    stream_interval: int = Field(
        default=16,
        ge=1,
        description="tokens per event: the first token at once, then one event for so many tokens",
    )
    events_per_response: int | None = Field(
        default=None, ge=1, description="events per completion, of equal size, instead of --stream-interval"
    )
    characters_per_token: float = Field(
        default=4.0,
        ge=0,
        description="length of synthesised text per recorded token; 0: only the final answer of a sample, and 1 for "
        "chains, which need a character per position",
    )

    fault: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description=f"KIND:RATE, a share of requests that fails: {', '.join(Fault)}",
    )
    shutdown_timeout: float = Field(
        default=30.0,
        ge=0,
        description="seconds that running calls may take to finish after SIGTERM, before they are cut",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="log level")

    @field_validator("traces", "served_model_name", "fault", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return [item.strip() for item in value.split(",")] if isinstance(value, str) else value

    @field_validator("fault")
    @classmethod
    def _check_faults(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        FaultPlan(FaultRate.parse(text) for text in value)
        return value

    @property
    def fault_plan(self) -> FaultPlan:
        """The faults, parsed."""
        return FaultPlan(FaultRate.parse(text) for text in self.fault)


def read_settings(arguments: Sequence[str]) -> ReplaySettings:
    """Read flags, then the environment.

    Raises:
        ValueError: A value does not fit (pydantic's ValidationError is one), or a `DYNASOR_REPLAY_` variable is
            not a setting.
        SystemExit: A flag is unknown, or help was asked for.
    """
    _refuse_unknown_variables()
    return ReplaySettings(**_parse_flags(arguments))


def _refuse_unknown_variables() -> None:
    known = {f"{ENV_PREFIX}{name}".upper() for name in ReplaySettings.model_fields}
    for name, value in os.environ.items():
        if value.startswith("tcp://") and name == f"{ENV_PREFIX}PORT":
            raise ValueError(
                f"{name} is {value}: Kubernetes sets it for a Service of this name; set enableServiceLinks: false"
            )
        if name.startswith(ENV_PREFIX) and name not in known and not name.endswith(_SERVICE_LINK_ENDINGS):
            raise ValueError(f"{name} is not a setting; known are {', '.join(sorted(known))}")


def _parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m dynasor_serve.engines.replay",
        description="Serve recorded traces as vLLM would.",
        epilog=f"Each flag may come as an environment variable instead: {ENV_PREFIX}MAX_NUM_SEQS for --max-num-seqs.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in ReplaySettings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        default = "" if field.is_required() or field.default in ((), None) else f" (default: {field.default})"
        help_text = f"{field.description}{default}"
        if get_origin(field.annotation) is tuple:
            parser.add_argument(flag, nargs="+", action="extend", metavar=name.upper(), help=help_text)
        elif field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            parser.add_argument(flag, metavar=name.upper(), help=help_text)
    return vars(parser.parse_args(arguments))

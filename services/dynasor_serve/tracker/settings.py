"""What a tracker is told."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from dynasor_serve.rpc.settings import StatefulSettings


class TrackerSettings(StatefulSettings):
    """Settings of the program tracker, `DYNASOR_TRACKER_*`."""

    model_config = SettingsConfigDict(env_prefix="DYNASOR_TRACKER_")

    name: str = Field(
        default="tracker-0", description="Identity; a restart under the same name reclaims its programs at once."
    )
    advertise: str = Field(
        default="",
        description="HOST:PORT where gateways reach this tracker; empty derives it from where it listens.",
    )
    group: str = Field(
        default="default", description="Group of schedulers it obeys; their lease in Redis says which and where."
    )
    evaluator: str = Field(default="127.0.0.1:7004", description="Address of the Certaindex evaluator.")
    max_programs: int = Field(default=1024, ge=1, description="Most programs owned at once; others wait in Redis.")
    interactive_share: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of these places, rounded down, for interactive programs alone: none waits for a backlog.",
    )
    lease_seconds: float = Field(
        default=60.0, gt=3, description="Lease of a program: running calls outlive an outage of Redis of half of it."
    )
    claim_interval_seconds: float = Field(
        default=1.0, gt=0, description="Between two looks for ended leases; new programs announce themselves."
    )
    final_ttl_seconds: int = Field(default=24 * 3600, ge=1, description="How long a final program stays readable.")
    engine_api_key: SecretStr = Field(
        default=SecretStr(""), description="Bearer token for engines that ask for one; the same for all pools."
    )
    engine_connect_seconds: float = Field(default=5.0, gt=0, description="Longest wait for a connection to an engine.")
    engine_stall_seconds: float = Field(
        default=120.0,
        gt=0,
        description="An engine that sends nothing for so long hangs. Covers its queue and a long prefill.",
    )
    engine_reply_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Longest wait for the end of what is not streamed: a reward, a rendered prompt.",
    )
    retry_base_seconds: float = Field(
        default=0.2, gt=0, description="Mean wait before a branch's second attempt; doubles."
    )
    max_text_characters: int = Field(
        default=65_536, ge=0, description="Text kept of a sample that is only shown; the rest is cut."
    )
    max_program_characters: int = Field(
        default=16_000_000,
        ge=1,
        description="Text kept of all calls of a program: some 120 chains of 32,000 tokens. A call whose text must be "
        "whole and exceeds it fails.",
    )

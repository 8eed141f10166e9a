"""What a scheduler is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.rpc.settings import StatefulSettings
from dynasor_serve.scheduling.fairness import LEAST_TRICKLE_GRANTS, Fairness


class WorkerSettings(BaseModel):
    """A worker known from the start; the operator registers others as they become ready."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str = Field(min_length=1, description="Pool it belongs to.")
    model: str = Field(min_length=1, description="Model the pool serves, as the engine names it.")
    name: str = Field(min_length=1, description="Its name, unique in the pool.")
    url: str = Field(
        pattern=r"^https?://[^@\s]+$", description="Base URL without /v1, and without a user: keys are engine_api_key."
    )
    engine: EngineKind = Field(default=EngineKind.VLLM, description="What it is.")
    max_in_flight: int = Field(
        default=64,
        ge=1,
        description="Most calls at once. Near the engine's own slots: what waits inside it is out of order.",
    )


class SchedulerSettings(StatefulSettings):
    """Settings of the scheduler, `DYNASOR_SCHEDULER_*`."""

    model_config = SettingsConfigDict(env_prefix="DYNASOR_SCHEDULER_")

    name: str = Field(
        default="scheduler-0",
        description="Identity, unique in the group; a restart under the same name takes over at once.",
    )
    group: str = Field(
        default="default", description="Schedulers of one group stand by for each other; trackers name it too."
    )
    ordering: str = Field(default="gang-shortest", description="Type string of the ordering.")
    longest_wait_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Ageing bound: a call that has waited this long goes before all of its class that have not.",
    )
    longest_wait_shares: float = Field(
        default=16.0,
        ge=1,
        description="Ageing bound: a program that was passed over for so many of its fair shares goes first. Its fair "
        "share of a grant is 1 / programs that wait.",
    )
    trickle_grants: int = Field(
        default=16,
        ge=LEAST_TRICKLE_GRANTS,
        description="Of so many grants in a row at least one goes to each class that waits, batch too.",
    )
    tenant_weights: dict[str, Annotated[float, Field(ge=0.001, le=1000)]] = Field(
        default_factory=dict,
        description='Weights under fair-virtual-time (JSON, {"TENANT": 2}); who is not named weighs 1.',
    )
    workers: tuple[WorkerSettings, ...] = Field(default=(), description="Workers known from the start (JSON list).")
    advertise: str = Field(
        default="",
        description="HOST:PORT where trackers reach this scheduler; empty derives it from where it listens.",
    )
    lease_seconds: float = Field(
        default=3.0,
        ge=0.1,
        description="Lease of the active scheduler. A standby takes over within 1.5 leases; after two thirds of one "
        "without Redis nothing is granted.",
    )
    engine_api_key: SecretStr = Field(
        default=SecretStr(""), description="Bearer token for health checks of engines that ask for one."
    )
    probe_interval_seconds: float = Field(default=2.0, gt=0, description="Between two health checks of a worker.")
    probe_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Patience of a health check: an engine on a busy CPU answers slowly."
    )

    @property
    def fairness(self) -> Fairness:
        """What every pool promises whatever its ordering."""
        return Fairness(
            longest_wait_seconds=self.longest_wait_seconds,
            longest_wait_shares=self.longest_wait_shares,
            trickle_grants=self.trickle_grants,
            tenant_weights=self.tenant_weights,
        )

"""What a gateway is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dynasor_serve.rpc.settings import StatefulSettings


class GatewaySettings(StatefulSettings):
    """Settings of the gateway, `DYNASOR_GATEWAY_*`."""

    model_config = SettingsConfigDict(env_prefix="DYNASOR_GATEWAY_")

    name: str = Field(default="gateway-0", description="Identity among the gateways.")
    schedulers: tuple[str, ...] = Field(
        default=("127.0.0.1:7003",), description="Addresses of the schedulers of the group (JSON list)."
    )
    default_rule: str = Field(
        default="beta-posterior:confidence=0.95",
        description="Rule of queries that name none. Adaptive-Consistency's: on recorded votes it loses no accuracy.",
    )
    default_deadline_seconds: float = Field(default=600.0, gt=0, description="Deadline of queries that set none.")
    live_queries_per_tenant: int = Field(
        default=10_000, ge=1, description="Most queries of a tenant that are not final."
    )
    live_programs_per_pool: int = Field(
        default=20_000,
        ge=1,
        description="Most programs of a pool that are not final, those that wait included.",
    )
    queued_programs_per_shard: int = Field(default=50_000, ge=1, description="Most unclaimed programs of one shard.")
    urgent_share: float = Field(
        default=0.1,
        ge=0,
        le=0.4,
        description="Share of each of these bounds that interactive queries have to themselves, and as much again that "
        "batch queries leave to the others: a full house of one class refuses no more urgent one.",
    )
    admission_by_deadline: bool = Field(
        default=True, description="Refuse a query that is predicted to reach its deadline before one call has ended."
    )
    tenant_token_budgets: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description='Completion tokens that a tenant may spend per window (JSON, {"TENANT": 1000000}); "*" is every '
        "tenant that is not named, each by itself. Who has no budget is not bounded.",
    )
    token_budget_window_seconds: int = Field(
        default=3600, ge=1, le=31 * 24 * 3600, description="Length of the windows, which begin at multiples of it."
    )
    batch_in_flight: int = Field(default=256, ge=1, description="Most unanswered queries of one RunBatch stream.")
    batch_bytes_in_flight: int = Field(
        default=32 * 1024 * 1024, ge=1, description="Most bytes of their messages; one query always fits."
    )
    batch_patience_seconds: float = Field(
        default=300.0,
        ge=0,
        description="How long a batch's query is offered again while it is refused for a passing reason (no ready "
        "worker, no Redis): nobody waits for it, so it waits. Where there is too much to do already, it is offered for "
        "as long as its deadline would let it run, if that is longer.",
    )
    idempotency_ttl_seconds: int = Field(default=24 * 3600, ge=1, description="How long an idempotency key is known.")
    final_ttl_seconds: int = Field(
        default=24 * 3600, ge=1, description="How long a query cancelled unclaimed stays readable."
    )
    pool_refresh_seconds: float = Field(default=2.0, gt=0, description="Between two looks at the scheduler's pools.")

"""What a Certaindex evaluator is told."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dynasor_serve.rpc.settings import ProcessSettings


class EvaluatorSettings(ProcessSettings):
    """Settings of the Certaindex evaluator, `DYNASOR_EVALUATOR_*`."""

    model_config = SettingsConfigDict(env_prefix="DYNASOR_EVALUATOR_")

    name: str = Field(default="evaluator-0", description="Identity among the evaluators.")
    workers: int = Field(default=1, ge=1, description="Processes that compare answers; they are replaced when lost.")
    pair_seconds: float = Field(
        default=2.0, gt=0, description="Longest time for one pair of answers, then it is undecided."
    )
    candidates: int = Field(
        default=1, ge=1, description="Candidates that each verifier judges at a time; one that is run uses a core."
    )
    candidate_seconds: float = Field(
        default=10.0, gt=0, le=600, description="Longest time for one candidate that is run, its start (0.1) included."
    )
    candidate_memory_bytes: int = Field(
        default=512 << 20, ge=64 << 20, description="Most memory of one candidate that is run."
    )
    worker_memory_bytes: int = Field(default=1 << 30, ge=1 << 28, description="Most memory of one worker process.")

"""A call that a tracker may start."""

from __future__ import annotations

from dataclasses import dataclass

from dynasor_serve.engines.client import Endpoint
from dynasor_serve.programs.query import Branch, QueryId


@dataclass(frozen=True, slots=True)
class GrantedCall:
    """A grant as its driver gets it."""

    query_id: QueryId
    branch: Branch
    attempt: str
    pool: str
    worker: str
    endpoint: Endpoint
    priority: int

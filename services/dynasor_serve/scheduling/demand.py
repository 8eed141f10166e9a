"""What programs want and what they are granted: the values that orderings and placement work on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

CLASSES = 3  # interactive, standard, batch


class CallId(NamedTuple):
    """One request to an engine: program, branch and attempt."""

    program: str
    branch: int
    attempt: str


class CallEnd(StrEnum):
    """How a call ended."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    WORKER_FAILED = "worker-failed"
    NOT_STARTED = "not-started"  # the grant came back unused
    REFUSED = "refused"  # for the query's own fault


class ProgramEnd(StrEnum):
    """How a program left its tracker."""

    COMPLETED = "completed"  # its rule, its cap or its budget ended it
    DEADLINE = "deadline"  # with its best answer so far, or with none
    CANCELLED = "cancelled"  # by its user
    FAILED = "failed"
    RELEASED = "released"  # it lives on: its tracker handed it back or lost it


@dataclass(frozen=True, slots=True)
class Want:
    """What one program would run next; each replaces the program's last one."""

    program: str
    pool: str
    algorithm: str
    calls: tuple[CallId, ...]  # wanted now and neither granted nor running
    class_rank: int  # 0 interactive, 1 standard, 2 batch
    tenant: str
    remaining_knob: int  # units of the knob the program may still spend, running ones included
    mean_tokens_per_branch: float  # of the program's own finished branches; 0 where none is
    accepted_at_ms: int
    deadline_ms: int
    tokens_spent: int
    shares_prefixes: bool = False  # its calls go on from one another's text: they belong on one worker
    certaindex: float = 0.0  # in [0, 1]; of the evidence so far
    samples: int = 0  # units of the knob whose evidence counts
    gain_per_token: float = 0.0  # expected gain of the next call, in accuracy per completion token; 0 where unknown
    speculative: int = 0  # so many of `calls`, the last ones, start only where no call waits that is not speculative
    prompt_tokens: float = 0.0  # mean prompt tokens of its calls; 0 where unknown


class Grant(NamedTuple):
    """One call may start on one worker."""

    tracker: str
    call: CallId
    worker: str
    url: str
    engine: str  # the kind of engine, passed through
    priority: int  # the engine's, smaller first
    waited_seconds: float  # between want and grant

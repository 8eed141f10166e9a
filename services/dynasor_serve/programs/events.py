"""What happens to a program. Its log is a list of these; its state is their fold.

Trackers append an event before they act on it (`tracker.driver`), so that any tracker can take a program over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dynasor_serve.programs.ledger import Ledger
from dynasor_serve.programs.query import Branch, Query


class Phase(StrEnum):
    """Where a query is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class StopReason(StrEnum):
    """Why a program ended. The `stop-*` values are verdicts; the others need no rule."""

    STOP_CERTAIN = "stop-certain"
    STOP_UNPROMISING = "stop-unpromising"
    STOP_BUDGET = "stop-budget"
    STOP_DEADLINE = "stop-deadline"
    CAP = "cap"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ProgramError:
    """Why a call or a program failed. `reason` is stable; docs/errors.md lists all of them."""

    reason: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first event of every program."""

    query: Query
    pool: str
    accepted_at_ms: int  # Unix milliseconds


@dataclass(frozen=True, slots=True)
class Claimed:
    """A tracker took the program. Calls of an earlier owner are lost with whatever they had generated."""

    tracker: str
    epoch: int
    tokens_lost: int = 0


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call ran to its end: this is the branch's evidence."""

    branch: Branch
    attempt: str
    answer: str | None  # read from all that the model has said; None where there is none
    text: str  # of this call; of a chain that since its last checkpoint
    tokens: int  # completion tokens; of a chain those since its last checkpoint
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    finish_reason: str = "stop"
    stopped_at: str | None = None  # the stop string that ended it
    reward: float | None = None  # in [0, 1]; set exactly for calls that were asked to judge
    confidence: float | None = None  # lowest group confidence; None where it was not asked for


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A running chain is durable up to a position: whoever owns it later goes on from there."""

    branch: Branch
    attempt: str
    position: int  # tokens of the chain, those of earlier attempts included
    text: str  # since the last checkpoint
    confidence: float | None = None  # lowest group confidence so far


@dataclass(frozen=True, slots=True)
class Probed:
    """A running chain was asked for its answer."""

    branch: Branch
    attempt: str
    position: int  # tokens of the chain that the probe saw
    answer: str | None  # None where the reply holds none
    is_hesitant: bool
    confidence: float | None  # mean token probability of the reply, in [0, 1]; None where it is unknown
    tokens: int  # completion tokens of the probe
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """A call that was no longer wanted was closed, while the program goes on."""

    branch: Branch
    attempt: str
    tokens: int  # completion tokens; of a chain those since its last checkpoint
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Rewarded:
    """A verifier has judged a branch, was given up about it, or will judge none of the query's."""

    branch: Branch
    reward: float  # in [0, 1]
    detail: str = ""
    error: ProgramError | None = None  # set where it refuses the query; an earlier release reads the reward, 0
    is_judged: bool = True  # whether the reward is the verifier's; the detail says why not


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call ended without evidence."""

    branch: Branch
    attempt: str
    error: ProgramError
    tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AnswersCompared:
    """What the evaluator decided about pairs of canonical answers."""

    equal: tuple[tuple[str, str], ...] = ()
    unequal: tuple[tuple[str, str], ...] = ()  # undecidable pairs included


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody asked to cancel."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """The query's deadline passed."""


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """Finished and running calls together have generated the query's token budget."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    phase: Phase
    stop_reason: StopReason
    stop_detail: str
    rule: str
    answer: str | None
    text: str
    certaindex: float
    samples: int
    votes: tuple[tuple[str | None, int], ...]  # (answer as first seen, count), largest first
    ledger: Ledger
    latency_seconds: float
    error: ProgramError | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every program; exactly one."""

    outcome: Outcome


Event = (
    Accepted
    | Claimed
    | CallFinished
    | CallFailed
    | CallCancelled
    | Checkpointed
    | Probed
    | Rewarded
    | AnswersCompared
    | CancelRequested
    | DeadlineReached
    | BudgetReached
    | Finished
)

"""What a rule says about a program. The tracker acts on it and writes its reason into the ledger."""

from dataclasses import dataclass
from enum import StrEnum


class VerdictKind(StrEnum):
    """The kinds of verdict; the strings are those of logs, metrics, protos and resources."""

    CONTINUE = "continue"  # go on
    STOP_CERTAIN = "stop-certain"  # more work would hardly change the answer
    STOP_UNPROMISING = "stop-unpromising"  # more work would hardly find one
    PRUNE = "prune"  # go on without the named branches
    STOP_BUDGET = "stop-budget"  # the token budget is spent
    STOP_DEADLINE = "stop-deadline"  # the time is up


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision with its reason.

    Attributes:
        kind: what to do.
        reason: for people, with the numbers: "H̃ 0.82 ≥ 0.7 after 5 of 16 samples".
        pruned_branches: branch numbers to cancel; not empty exactly when `kind` is `prune`.

    Raises:
        ValueError: branches are named by another kind than `prune`, or none by `prune`.
    """

    kind: VerdictKind
    reason: str
    pruned_branches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind is VerdictKind.PRUNE) != bool(self.pruned_branches):
            raise ValueError(
                f"verdict {self.kind} names branches {self.pruned_branches}: prune names some, others none"
            )

    @property
    def stops(self) -> bool:
        """Whether the whole program ends here."""
        return self.kind not in (VerdictKind.CONTINUE, VerdictKind.PRUNE)


def going_on(reason: str) -> Verdict:
    """Return a `continue` verdict."""
    return Verdict(VerdictKind.CONTINUE, reason)


def certain(reason: str) -> Verdict:
    """Return a `stop-certain` verdict."""
    return Verdict(VerdictKind.STOP_CERTAIN, reason)

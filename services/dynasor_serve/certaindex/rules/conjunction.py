"""Rules joined by `&`: a program is certain only if all of them say so (several metrics; arXiv 2412.20993, app. B)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.certaindex.rules.rule import (
    ChainRule,
    Evidence,
    InvalidRule,
    Rule,
    VoteRule,
    reads_tokens,
    token_window,
)
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind, going_on
from dynasor_serve.certaindex.votes import Votes

SEPARATOR = "&"


@dataclass(frozen=True, slots=True)
class VoteConjunction:
    """Stops when all its parts, rules over votes, stop; prunes every branch that one of them prunes."""

    name: ClassVar[str] = "all-of"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    parts: tuple[VoteRule, ...]

    def __post_init__(self) -> None:
        windows = {*map(token_window, self.parts)} - {0}
        if len(windows) > 1:
            problem = f"its parts take confidences over {_listed(sorted(windows))} tokens"
            raise InvalidRule("rule", problem, "a branch has one: give them the same window")

    @property
    def token_window(self) -> int:
        """Tokens per group that a part needs confidences over; 0 if none does."""
        return max(map(token_window, self.parts))

    @property
    def reads_tokens(self) -> bool:
        """Whether a part reads `Votes.tokens`."""
        return any(map(reads_tokens, self.parts))

    def verdict(self, votes: Votes) -> Verdict:
        """Ask every part."""
        return _joined([part.verdict(votes) for part in self.parts])

    def describe(self) -> str:
        """Return the rule in words."""
        return _described(self.parts)

    def __str__(self) -> str:
        """Return the canonical type string; `parse_rule` reads it back."""
        return _written(self.parts)


@dataclass(frozen=True, slots=True)
class ChainConjunction:
    """Stops when all its parts, rules over one chain, stop. They judge the same trials, asked whenever one asks."""

    name: ClassVar[str] = "all-of"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.CHAIN})
    parts: tuple[ChainRule, ...]

    def verdict(self, trials: Trials) -> Verdict:
        """Ask every part."""
        return _joined([part.verdict(trials) for part in self.parts])

    def certaindex(self, trials: Trials) -> float:
        """Return the lowest of the parts' certainties."""
        return min(part.certaindex(trials) for part in self.parts)

    @property
    def schedule(self) -> ProbeSchedule:
        """Probe whenever a part would."""
        schedules = [part.schedule for part in self.parts]
        return ProbeSchedule(
            interval=min((each.interval for each in schedules if each.interval), default=0),
            marks=tuple(dict.fromkeys(mark for each in schedules for mark in each.marks)),
            min_gap=min(each.min_gap for each in schedules),
        )

    def describe(self) -> str:
        """Return the rule in words."""
        return _described(self.parts)

    def __str__(self) -> str:
        """Return the canonical type string; `parse_rule` reads it back."""
        return _written(self.parts)


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict that all parts share, else what goes on."""
    reasons = "; ".join(verdict.reason for verdict in verdicts)
    if all(verdict.stops for verdict in verdicts):
        kinds = {verdict.kind for verdict in verdicts}
        return Verdict(kinds.pop() if len(kinds) == 1 else VerdictKind.STOP_UNPROMISING, reasons)
    pruned = sorted({branch for verdict in verdicts for branch in verdict.pruned_branches})
    if pruned:
        return Verdict(VerdictKind.PRUNE, reasons, tuple(pruned))
    return going_on("; ".join(verdict.reason for verdict in verdicts if not verdict.stops))


def _described(parts: Sequence[Rule]) -> str:
    return "Stops only when all of these do. " + " ".join(part.describe() for part in parts)


def _written(parts: Sequence[Rule]) -> str:
    return f" {SEPARATOR} ".join(map(str, parts))


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))

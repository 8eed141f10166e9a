"""How well is outstanding work predicted from Certaindex? Recorded votes are played, forecast and learned from in turn.

After each sample a vote is forecast as the scheduler does it (`scheduling.spending`): the samples left to its cap times
the mean tokens so far, times what votes of its kind went on to spend. Beside it stands the forecast at the cap. A vote
is learned from only when it has ended, so nothing is forecast from itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path

from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.certaindex.rules.rule import VoteRule
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.scheduling.history import BranchHistory
from dynasor_serve.scheduling.spending import SpendHistory, kind_of
from dynasor_serve.simulation.recorded_programs import recorded_votes
from dynasor_serve.simulation.votes import Ballot

_ALGORITHM = "self-consistency"


@dataclass(frozen=True, slots=True)
class ForecastScore:
    """What a forecast is worth, over all moments of all votes.

    Attributes:
        forecasts: so many were made.
        error: mean absolute relative error of a vote's remaining tokens, predicted from Certaindex,
        error_at_cap: … and forecast at its cap.
        total_error: relative error of the sum of all forecasts, positive where too much was predicted,
        total_error_at_cap: … and at the caps. What a pool is scaled by is a sum.
    """

    forecasts: int
    error: float
    error_at_cap: float
    total_error: float
    total_error_at_cap: float


def score_forecasts(files: Iterable[Path], rule: str, *, shuffles: int = 5, seed: int = 0) -> ForecastScore:
    """Plays the votes of files under a rule, in random order and each in `shuffles` orders of its samples.

    Raises:
        InvalidRule: there is no such rule over votes.
        TraceFormatError: the files hold no vote.
    """
    parsed = parse_vote_rule(rule)
    draw = random.Random(seed)
    votes = [ballots for run in recorded_votes(files).values() for _, ballots in run]
    plays = [draw.sample(ballots, len(ballots)) for ballots in votes for _ in range(shuffles)]
    draw.shuffle(plays)
    told: list[tuple[float, float, float]] = []  # (tokens to come, predicted, at the cap)
    branches, spending = BranchHistory(), SpendHistory()
    for play in plays:
        told.extend(_play(play, parsed, branches, spending))
    actual = fsum(tokens for tokens, _, _ in told)
    return ForecastScore(
        forecasts=len(told),
        error=fsum(abs(predicted / tokens - 1) for tokens, predicted, _ in told) / len(told),
        error_at_cap=fsum(abs(at_cap / tokens - 1) for tokens, _, at_cap in told) / len(told),
        total_error=fsum(predicted for _, predicted, _ in told) / actual - 1,
        total_error_at_cap=fsum(at_cap for _, _, at_cap in told) / actual - 1,
    )


def _play(
    ballots: Sequence[Ballot], rule: VoteRule, branches: BranchHistory, spending: SpendHistory
) -> list[tuple[float, float, float]]:
    """One vote, sample by sample until its rule stops it."""
    cap = len(ballots)
    seen: dict[str | int, int] = {}
    labels: list[int | None] = []
    spent = 0.0
    moments = []  # (kind, tokens spent, predicted, at the cap) before each sample
    for ballot in ballots:
        votes = Votes(tuple(labels), cap, tokens=tuple(round(each.tokens) for each in ballots[: len(labels)]))
        if labels and rule.verdict(votes).stops:
            break
        kind = kind_of(_ALGORITHM, votes.certaindex, len(labels), cap - len(labels))
        at_cap = (cap - len(labels)) * branches.tokens_per_branch(_ALGORITHM, spent / len(labels) if labels else 0.0)
        moments.append((kind, spent, at_cap * spending.ratio(kind), at_cap))
        labels.append(None if ballot.answer is None else seen.setdefault(ballot.answer, len(seen)))
        spent += ballot.tokens
    for kind, (then, at_cap) in {kind: (then, at_cap) for kind, then, _, at_cap in reversed(moments)}.items():
        spending.observe(kind, spent - then, at_cap)
    for ballot in ballots[: len(labels)]:
        branches.observe(_ALGORITHM, round(ballot.tokens))
    return [(spent - then, predicted, at_cap) for _, then, predicted, at_cap in moments if spent > then]

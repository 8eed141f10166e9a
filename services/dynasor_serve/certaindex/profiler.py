"""The profiler: fits the allocation policies of the paper to runs whose answers are known to be right or wrong.

Whoever has labelled runs (a benchmark, `dynasor profile`) makes each a `LabelledRun` and asks `fit` for a policy by
name. What it returns is the type string of a rule, with everything that was fitted in it; `even` where nothing may be
stopped early ("otherwise grant the cap", arXiv 2412.20993, appendix D.2.2).

Three kinds of fit:

- A threshold (`static-threshold`, `n-step-threshold`, `length`, `multi-metric`) is the most lenient that hurts at no
  calibration point: at each cap from 1 sample to all, as many runs are right with the rule as without it. Thresholds
  are tried from the strictest on, and the first that hurts ends the search, so that a lenient one that happens to do
  well cannot hide a strict one that does not.
- A curve (`initial-curve`, `dynamic-curve`) is the skyline of what runs needed: at each H̃ and above, samples enough for
  all runs, or for the share `quantile` of them. A run needs the fewest samples from which on its vote stays right. One
  whose vote is wrong at the cap needs none: more samples do not mend it.
- `default` is fitted to how answers agree, whichever of them are right, and may hurt: its `risk` says how often another
  answer would have won.

What is fitted holds for runs like these: the same model, questions, cap and width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from typing import Literal

from dynasor_serve.certaindex.agreement_forecast import fitted_concentration
from dynasor_serve.certaindex.labelled_runs import ROUNDING, LabelledRun, ProfileError, by_level, largest_cap
from dynasor_serve.certaindex.rules.conjunction import VoteConjunction
from dynasor_serve.certaindex.rules.default import Default
from dynasor_serve.certaindex.rules.dynamic_curve import DynamicCurve
from dynasor_serve.certaindex.rules.even import Even
from dynasor_serve.certaindex.rules.initial_curve import InitialCurve
from dynasor_serve.certaindex.rules.length import Length
from dynasor_serve.certaindex.rules.n_step_threshold import NStepThreshold
from dynasor_serve.certaindex.rules.reward_threshold import RewardThreshold
from dynasor_serve.certaindex.rules.rule import VoteRule
from dynasor_serve.certaindex.rules.static_threshold import StaticThreshold
from dynasor_serve.certaindex.rules.step_curve import MAX_POINTS, StepCurve

__all__ = [
    "POLICIES",
    "LabelledRun",
    "ProfileError",
    "fit",
    "fit_default",
    "fit_dynamic_curve",
    "fit_initial_curve",
    "fit_length",
    "fit_multi_metric",
    "fit_n_step_threshold",
    "fit_static_threshold",
]


def fit_static_threshold(runs: Sequence[LabelledRun], *, detect: int = 5) -> VoteRule:
    """Return the `static-threshold` of the lowest threshold that hurts at no calibration point."""
    largest_cap(runs, detect)
    stops = [_Stop(run.certainties[detect], run, detect) for run in _read(runs, detect)]
    threshold = _lowest_harmless(stops)
    return Even() if threshold is None else StaticThreshold(threshold=threshold, detect=detect)


def fit_n_step_threshold(runs: Sequence[LabelledRun], *, every: int = 5) -> VoteRule:
    """Return the `n-step-threshold` of the lowest threshold that hurts at no calibration point."""
    steps = range(every, largest_cap(runs, every, "every"), every)
    stops = [_Stop(run.certainties[k], run, k) for k in steps for run in _read(runs, k)]
    threshold = _lowest_harmless(stops)
    return Even() if threshold is None else NStepThreshold(threshold=threshold, every=every)


def fit_length(runs: Sequence[LabelledRun], *, detect: int = 5) -> VoteRule:
    """Return the `length` of the most tokens that hurt at no calibration point."""
    largest_cap(runs, detect)
    if not all(run.votes.tokens for run in runs):
        raise ProfileError("a run does not count its tokens; length needs those of every sample")
    stops = [_Stop(-sum(run.votes.tokens[:detect]), run, detect) for run in _read(runs, detect)]
    harmless = _harmless_levels(stops)
    return Length(tokens=max(1, round(-harmless[-1])), detect=detect) if harmless else Even()


def fit_multi_metric(
    runs: Sequence[LabelledRun], *, detect: int = 3, reward: Literal["max", "mean"] = "mean"
) -> VoteRule:
    """Return the `static-threshold & reward-threshold` that stops most runs and hurts at no calibration point.

    For each threshold of H̃ the lowest reward that hurts nowhere is sought; of pairs that stop as many runs, the one
    with the higher H̃ is taken.
    """
    largest_cap(runs, detect)
    judged = [run for run in _read(runs, detect) if _reward(run, detect, reward) is not None]
    if not judged:
        raise ProfileError(f"no run has an answer and a reward in its first {detect} samples; multi-metric needs both")
    most, best = 0, None
    levels = [level for level, _ in by_level((run.certainties[detect], run) for run in judged) if level > ROUNDING]
    for level, below in pairwise((*levels, 0.0)):
        certain = [run for run in judged if run.certainties[detect] >= level - ROUNDING]
        stops = [_Stop(_reward(run, detect, reward) or 0.0, run, detect) for run in certain]
        least = _lowest_harmless(stops)
        stopped = 0 if least is None else sum(stop.level >= least for stop in stops)
        if least is not None and stopped > most:
            most, best = stopped, (_between(below, level), least)
    if best is None:
        return Even()
    certainty, least_reward = best
    rewards = RewardThreshold(detect=detect, **{reward: least_reward})
    return VoteConjunction((StaticThreshold(threshold=certainty, detect=detect), rewards))


def fit_initial_curve(runs: Sequence[LabelledRun], *, detect: int = 5, quantile: float = 1.0) -> VoteRule:
    """Return the `initial-curve` that lies on or above (H̃ at the detect step, samples needed) of the runs."""
    cap = largest_cap(runs, detect)
    needs = [[(run.certainties[detect], run.needed)] for run in _read(runs, detect)]
    curve = _skyline(needs, detect, cap, quantile)
    return Even() if curve is None else InitialCurve(detect=detect, curve=curve)


def fit_dynamic_curve(runs: Sequence[LabelledRun], *, quantile: float = 1.0) -> VoteRule:
    """Return the `dynamic-curve` that lies above (H̃ after k samples, k) wherever a stop would be too early."""
    cap = largest_cap(runs, 1)
    needs = []
    for run in runs:
        early = {*run.too_early()}
        needs.append([(run.certainties[k], k + 1 if k in early else 0) for k in range(1, run.cap) if run.answered[k]])
    curve = _skyline(needs, 1, cap, quantile)
    return Even() if curve is None else DynamicCurve(curve=curve)


def fit_default(runs: Sequence[LabelledRun]) -> VoteRule:
    """Return the `default` whose concentrations make the agreement in the runs most probable; labels are not read."""
    largest_cap(runs, 1)
    concentration, spread = fitted_concentration(run.votes.cluster_sizes for run in runs)
    return Default(concentration=concentration, spread=spread)


def fit(
    policy: str,
    runs: Sequence[LabelledRun],
    *,
    detect: int = 5,
    every: int = 5,
    quantile: float = 1.0,
    reward: Literal["max", "mean"] = "mean",
) -> str:
    """Return the type string of a policy fitted to labelled runs; `even` if it may stop nothing early.

    Args:
        policy: one of `POLICIES`.
        runs: programs that ran to their caps. Those of no more than `detect` samples have nothing to save.
        detect: samples after which H̃, rewards or tokens are read.
        every: samples between two judgements of `n-step-threshold`.
        quantile: the share of all runs that a curve must leave enough samples at each H̃, above 0 to 1.
        reward: which reward `multi-metric` takes, the best or the mean.

    Raises:
        ProfileError: an unknown policy, no runs, a detect step that is not below their largest cap, a quantile out of
            bounds, or runs without what the policy reads.
    """
    fits: dict[str, Callable[[], VoteRule]] = {
        "static-threshold": lambda: fit_static_threshold(runs, detect=detect),
        "n-step-threshold": lambda: fit_n_step_threshold(runs, every=every),
        "initial-curve": lambda: fit_initial_curve(runs, detect=detect, quantile=quantile),
        "dynamic-curve": lambda: fit_dynamic_curve(runs, quantile=quantile),
        "length": lambda: fit_length(runs, detect=detect),
        "multi-metric": lambda: fit_multi_metric(runs, detect=detect, reward=reward),
        "default": lambda: fit_default(runs),
    }
    if policy not in fits:
        raise ProfileError(f"there is no policy {policy!r:.60} to fit; known are {', '.join(fits)}")
    return str(fits[policy]())


POLICIES = (
    "static-threshold",
    "n-step-threshold",
    "initial-curve",
    "dynamic-curve",
    "length",
    "multi-metric",
    "default",
)
"""What `fit` takes."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """Once the threshold is down to `level`, the run stops after `samples`, or earlier if something else stops it."""

    level: float
    run: LabelledRun
    samples: int


def _harmless_levels(stops: Sequence[_Stop]) -> list[float]:
    """Return the levels, falling, down to the last at which the stops so far hurt at no cap."""
    stopped: dict[int, int] = {}  # id of a run -> samples after which it stops
    change: dict[int, int] = {}  # cap -> runs right with the stops minus runs right without
    largest = max((stop.run.cap for stop in stops), default=0)
    harmless = []
    for level, group in by_level((stop.level, stop) for stop in stops):
        for stop in group:
            run, before = stop.run, stopped.get(id(stop.run), stop.run.cap)
            if stop.samples >= before:
                continue
            stopped[id(run)] = stop.samples
            for cap in range(stop.samples + 1, largest + 1):
                change[cap] = change.get(cap, 0) + run.right[stop.samples] - run.right[min(cap, before)]
        if min(change.values(), default=0) < 0:
            break
        harmless.append(level)
    return harmless


def _read(runs: Iterable[LabelledRun], step: int) -> list[LabelledRun]:
    """Return the runs that a rule could stop after `step` samples: not at their cap yet, and with an answer."""
    return [run for run in runs if run.cap > step and run.answered[step]]


def _lowest_harmless(stops: Sequence[_Stop]) -> float | None:
    """Return a threshold, above 0 to 1, that the lowest harmless level reaches and the next lower one does not."""
    positive = [stop for stop in stops if stop.level > ROUNDING]
    harmless = _harmless_levels(positive)
    if not harmless:
        return None
    below = max((stop.level for stop in positive if stop.level < harmless[-1] - ROUNDING), default=0.0)
    return _between(below, harmless[-1])


def _skyline(needs: Sequence[Sequence[tuple[float, int]]], least: int, cap: int, quantile: float) -> StepCurve | None:
    """Return the lowest falling curve that leaves the runs the samples that they need; None if it is the cap.

    Args:
        needs: for each run, (H̃, samples that it needs wherever the curve is read at this H̃).
        least: no point may allow fewer samples.
        cap: points that allow as many are left out.
        quantile: the share of all runs that must have enough at each level and above.
    """
    if not 0 < quantile <= 1:  # NaN is not
        raise ProfileError(f"a curve is to leave enough samples to a share {quantile} of the runs; it is above 0 to 1")
    spare = len(needs) - ceil(quantile * len(needs) - ROUNDING)  # runs that may need more
    need = [0] * len(needs)  # run -> the most that it needs at this level and above
    needing = [len(needs)] + [0] * cap  # samples -> runs that need as many
    lowest: dict[int, float] = {}  # samples -> the lowest level that allows no more
    below: dict[float, float] = {}  # level -> the next lower one
    readings = by_level((level, (number, wanted)) for number, run in enumerate(needs) for level, wanted in run)
    for (level, group), (lower, _) in pairwise((*readings, (0.0, []))):
        if level <= ROUNDING:
            break
        for number, wanted in group:
            if wanted > need[number]:
                needing[need[number]] -= 1
                needing[wanted] += 1
                need[number] = wanted
        more = 0  # runs that need more than `enough`
        enough = cap
        while enough and more + needing[enough] <= spare:
            more += needing[enough]
            enough -= 1
        samples = max(least, enough)
        if samples >= cap:
            break
        lowest[samples] = level
        below[level] = lower
    points = [(_between(below[level], level), samples) for samples, level in lowest.items()]
    return StepCurve(tuple(reversed(points[:MAX_POINTS]))) if points else None


def _between(below: float, level: float) -> float:
    """Return the level cut to the fewest decimals, 3 at least, that keep it above the next lower one."""
    if level >= 1:
        return 1.0
    for decimals in range(3, 9):
        scale = float(10**decimals)
        cut = floor((level - ROUNDING) * scale) / scale
        if cut > below:
            return cut
    return level - ROUNDING


def _reward(run: LabelledRun, detect: int, which: Literal["max", "mean"]) -> float | None:
    judged = run.votes.prefix(detect)
    return judged.best_reward if which == "max" else judged.mean_reward

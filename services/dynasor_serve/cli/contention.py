"""What `dynasor bench allocation` shows: plain values, or tables per dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from dynasor_serve.cli.presentation import Json
from dynasor_serve.simulation.contention import POINTS_LOST, SHOWN_SHARES, Contender, Interval
from dynasor_serve.simulation.speculation import Comparison, Served


def allocation_json(contenders: Sequence[Contender], comparisons: Sequence[Comparison]) -> dict[str, Json]:
    """Both studies as plain values, one row per contender and per load."""
    return {
        "short_pool": [
            {
                "dataset": each.dataset,
                "policy": each.policy,
                "width": each.width,
                "questions": each.questions,
                "runs": each.runs,
                "at_tokens_percent": [round(100 * share) for share in SHOWN_SHARES],
                "accuracy_percent": [round(accuracy, 4) for accuracy in each.accuracy],
                "gained_points": [_interval_json(gained) for gained in each.gained],
                "accuracy_full_percent": round(each.accuracy_full, 4),
                "needed_tokens_percent": _interval_json(each.needed_share),
            }
            for each in contenders
        ],
        "idle_pool": [
            {
                "dataset": each.dataset,
                "load": each.load,
                "programs": each.programs,
                "without_speculation": _served_json(each.narrow),
                "with_speculation": _served_json(each.wide),
            }
            for each in comparisons
        ],
    }


def allocation_text(contenders: Sequence[Contender], comparisons: Sequence[Comparison]) -> str:
    """Both studies for people."""
    tables = [_short_text(dataset, [*of]) for dataset, of in groupby(contenders, lambda each: each.dataset)]
    tables += [_idle_text(dataset, [*of]) for dataset, of in groupby(comparisons, lambda each: each.dataset)]
    return "\n".join(tables)


def _short_text(dataset: str, contenders: Sequence[Contender]) -> str:
    first = contenders[0]
    shares = "".join(f"{f'right at {share:.0%}':>15}{'gained':>23}" for share in SHOWN_SHARES)
    runs = "run" if first.runs == 1 else "runs"
    title = (
        f"{dataset}: a short pool; {first.questions} questions, mean over {first.runs} {runs}; gained in points over "
        f"the even split at the same share of all tokens; tokens needed for {POINTS_LOST:g} point less than all bring"
    )
    lines = [
        title,
        f"  {'policy':<24}{'width':>5}{shares}{'right in the end':>18}{'tokens needed':>26}",
    ]
    for each in contenders:
        cells = "".join(
            f"{accuracy:>13.1f} %{_points(gained):>23}"
            for accuracy, gained in zip(each.accuracy, each.gained, strict=True)
        )
        needed = each.needed_share
        lines.append(
            f"  {each.policy:<24}{each.width or '':>5}{cells}{each.accuracy_full:>16.1f} %"
            f"{needed.mean:>10.1f} % [{needed.low:>5.1f}, {needed.high:>5.1f}]"
        )
    return "\n".join([*lines, ""])


def _idle_text(dataset: str, comparisons: Sequence[Comparison]) -> str:
    lines = [
        f"{dataset}: a pool with places left over; {comparisons[0].programs} programs, without and with speculation",
        f"  {'load':>5}{'mean seconds':>20}{'saved':>8}{'95th percentile':>20}{'tokens':>18}{'added':>8}{'right':>18}",
    ]
    lines.extend(
        f"  {each.load:>5.0%}{_both(each.narrow.mean_seconds, each.wide.mean_seconds, 2):>20}"
        f"{each.seconds_saved_percent:>6.0f} %{_both(each.narrow.p95_seconds, each.wide.p95_seconds, 2):>20}"
        f"{_both(each.narrow.tokens, each.wide.tokens, 0):>18}{each.tokens_added_percent:>6.0f} %"
        f"{_both(each.narrow.accuracy, each.wide.accuracy, 1):>16} %"
        for each in comparisons
    )
    return "\n".join([*lines, ""])


def _both(narrow: float, wide: float, digits: int) -> str:
    return f"{narrow:.{digits}f} → {wide:.{digits}f}"


def _points(gained: Interval) -> str:
    return f"{gained.mean:+.1f} [{gained.low:+.1f}, {gained.high:+.1f}]"


def _interval_json(interval: Interval) -> dict[str, Json]:
    return {name: round(value, 4) for name, value in asdict(interval).items()}


def _served_json(served: Served) -> dict[str, Json]:
    return {name: round(value, 4) for name, value in served._asdict().items()}

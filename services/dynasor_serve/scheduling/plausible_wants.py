"""Wants as they could be: a number out of its range stands for "unknown" and never reaches an ordering.

Without this one NaN would spoil the order of a heap for every program in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from dynasor_serve.scheduling.demand import CLASSES, Want
from dynasor_serve.scheduling.history import MOST_TOKENS_PER_BRANCH

_MOST = 2**53  # integers up to here are floats, too
_LAST_CLASS = CLASSES - 1

# field -> (least, most, what stands for any other value)
_RANGES: dict[str, tuple[float, float, float]] = {
    "class_rank": (0, _LAST_CLASS, _LAST_CLASS),
    "remaining_knob": (0, _MOST, -1),  # the calls wanted now stand in
    "mean_tokens_per_branch": (0, MOST_TOKENS_PER_BRANCH, 0.0),
    "accepted_at_ms": (-_MOST, _MOST, _MOST),  # or it would go first
    "deadline_ms": (-_MOST, _MOST, 0),
    "tokens_spent": (0, _MOST, 0),
    "certaindex": (0, 1, 0.0),
    "samples": (0, _MOST, 0),
    "gain_per_token": (0, _MOST, 0.0),
    "speculative": (0, _MOST, 0),
    "prompt_tokens": (0, MOST_TOKENS_PER_BRANCH, 0.0),
}
_BOUNDS = [(name, least, most) for name, (least, most, _) in _RANGES.items()]
_values: Callable[[Want], tuple[Any, ...]] = attrgetter(*_RANGES)


def impossible_numbers(want: Want) -> list[str]:
    """The fields whose value cannot be; none of most wants."""
    numbers = zip(_BOUNDS, _values(want), strict=True)
    return [name for (name, least, most), value in numbers if not least <= value <= most]  # NaN is not, either


def without(want: Want, fields: list[str]) -> Want:
    """The want with what stands for unknown in these fields."""
    possible: dict[str, Any] = {name: _RANGES[name][2] for name in fields}
    if "remaining_knob" in possible:
        possible["remaining_knob"] = len(want.calls)
    return replace(want, **possible)

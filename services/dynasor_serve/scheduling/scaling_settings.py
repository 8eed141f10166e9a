"""What the scaling law is told: bounds, patience and what counts as met."""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST_SECONDS = 86_400.0


class InvalidScaling(ValueError):
    """A setting cannot be. `field` names it, by its attribute; `remedy` says what would be right."""

    def __init__(self, field: str, wrong: str, remedy: str) -> None:
        super().__init__(f"{field}: {wrong}; {remedy}")
        self.field = field
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """The settings of one pool.

    Attributes:
        min_workers: fewest workers; 0 lets an idle pool have none.
        max_workers: most workers.
        target_utilisation: share of what a worker can generate that it is planned for, in [0.05, 1]; the rest is for
            bursts.
        drain_seconds: work that waits is to be taken up, and all outstanding work to be done, in so long. Follows from
            the SLO: about the time that a program may take.
        least_attainment: while a smaller share of the programs ends in time and calls wait, no worker is taken away.
        start_up_seconds: from the decision until a new worker is ready: what arrives meanwhile is planned for.
        up_window_seconds: demand is averaged over it, a larger number of workers must have been called for throughout
            it, and workers are added once in it at most.
        down_window_seconds: a smaller number must have been called for throughout it, and workers are taken away only
            where their number has not changed for so long.
        idle_seconds: after so long without a program the last worker is taken away, where `min_workers` is 0.
        stale_seconds: a demand that is older counts as missing.
        hysteresis: a change is made only where the demand is beyond what the workers can carry, or could do with one
            less, by this share of them (at most by half a worker).
        most_added: workers added at once.
        most_removed: workers taken away at once.
    """

    min_workers: int = 1
    max_workers: int = 8
    target_utilisation: float = 0.8
    drain_seconds: float = 60.0
    least_attainment: float = 0.95
    start_up_seconds: float = 120.0
    up_window_seconds: float = 30.0
    down_window_seconds: float = 300.0
    idle_seconds: float = 600.0
    stale_seconds: float = 30.0
    hysteresis: float = 0.1
    most_added: int = 8
    most_removed: int = 4

    def __post_init__(self) -> None:
        """Raises `InvalidScaling` naming the first setting that cannot be."""
        for field in ("min_workers", "max_workers", "most_added", "most_removed"):
            least = 0 if field == "min_workers" else 1
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidScaling(field, f"{value!r} is no number of workers", f"give a whole number from {least}")
        if self.min_workers > self.max_workers:
            wrong = f"{self.min_workers} is more than max_workers, {self.max_workers}"
            raise InvalidScaling("min_workers", wrong, "give at most max_workers")
        for field, lowest, highest in (
            ("target_utilisation", 0.05, 1.0),
            ("least_attainment", 0.0, 1.0),
            ("hysteresis", 0.0, 0.5),
            ("start_up_seconds", 0.0, _LONGEST_SECONDS),
            ("drain_seconds", 1.0, _LONGEST_SECONDS),
            ("up_window_seconds", 1.0, _LONGEST_SECONDS),
            ("down_window_seconds", 1.0, _LONGEST_SECONDS),
            ("idle_seconds", 1.0, _LONGEST_SECONDS),
            ("stale_seconds", 1.0, _LONGEST_SECONDS),
        ):
            if not lowest <= getattr(self, field) <= highest:  # also where it is not a number
                remedy = f"give a number from {lowest:g} to {highest:g}"
                raise InvalidScaling(field, f"{getattr(self, field)!r} is out of range", remedy)
        if self.down_window_seconds < self.up_window_seconds:
            wrong = f"{self.down_window_seconds:g} s is shorter than up_window_seconds, {self.up_window_seconds:g} s"
            raise InvalidScaling("down_window_seconds", wrong, "taking away must not be hastier than adding")

    @property
    def history_seconds(self) -> float:
        """How far back a decision looks: older observations may be forgotten."""
        windows = self.down_window_seconds + self.slow_average_seconds
        return max(windows, self.idle_seconds, self.start_up_seconds) + self.stale_seconds

    @property
    def slow_average_seconds(self) -> float:
        """What demand is averaged over before workers are taken away."""
        return max(self.up_window_seconds, self.down_window_seconds / 2)

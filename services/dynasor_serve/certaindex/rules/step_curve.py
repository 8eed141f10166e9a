"""A falling step curve from Certaindex to samples: the more settled a program, the fewer it may take."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

MAX_POINTS = 16
MAX_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class StepCurve:
    """The most samples that a program may take: those of the highest level that its H̃ reaches, else its cap.

    Attributes:
        points: (level, samples), levels above 0 to 1 and rising, samples 1 to 1024 and falling; 1 to 16 points.

    Raises:
        ValueError: the points are anything else.
    """

    points: tuple[tuple[float, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.points) <= MAX_POINTS:
            raise ValueError(f"a curve has {len(self.points)} points; it must have 1 to {MAX_POINTS}")
        for level, samples in self.points:
            if not 0 < level <= 1 or not 1 <= samples <= MAX_SAMPLES:  # NaN is not
                raise ValueError(f"a point is {level}/{samples}; it must be an H̃ above 0 to 1 and 1 to 1024 samples")
        for (lower, more), (higher, fewer) in pairwise(self.points):
            if not (lower < higher and more > fewer):
                raise ValueError(f"{lower}/{more} comes before {higher}/{fewer}; levels must rise and samples fall")

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the curve of `level/samples` separated by semicolons, such as `0.41/14;0.69/5`.

        Raises:
            ValueError: it is no such curve.
        """
        points = (point.partition("/") for point in text.split(";"))
        return cls(tuple((float(level), int(samples)) for level, _, samples in points))

    def most_samples(self, certainty: float) -> int | None:
        """Return the most samples that a program of this H̃ may take; None for its cap."""
        passed = bisect_right(self.points, certainty, key=lambda point: point[0])
        return self.points[passed - 1][1] if passed else None

    def __str__(self) -> str:
        """Return the curve as `read` takes it."""
        return ";".join(f"{level!r}/{samples}" for level, samples in self.points)

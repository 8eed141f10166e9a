"""What goes wrong on purpose: faults to try clients against.

`app` draws once per request. The draw follows from the request id alone, so a run can be repeated, and another
attempt of the same call draws anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """The ways in which an answer fails.

    `GARBAGE`: bytes that are not what the content type says. `HANG`: the call takes its slot and never says
    anything. `ERROR_500`: an error body. `CUT_STREAM`: the connection closes half-way.
    """

    GARBAGE = "garbage"
    HANG = "hang"
    ERROR_500 = "error-500"
    CUT_STREAM = "cut-stream"


@dataclass(frozen=True, slots=True)
class FaultRate:
    """A share of the requests that fails in one way."""

    fault: Fault
    rate: float

    @classmethod
    def parse(cls, text: str) -> FaultRate:
        """Read `KIND:RATE`, such as `hang:0.05`.

        Raises:
            ValueError: The kind is unknown or the rate is not in [0, 1].
        """
        kind, _, rate = text.partition(":")
        if kind not in set(Fault):
            raise ValueError(f"unknown fault {kind!r}; give one of {', '.join(Fault)}, as in hang:0.05")
        try:
            parsed = cls(Fault(kind), float(rate))
        except ValueError as error:
            raise ValueError(f"fault {text!r} has no rate; give a share of the requests, as in hang:0.05") from error
        if not 0 <= parsed.rate <= 1:
            raise ValueError(f"the rate of fault {text!r} is not in [0, 1]")
        return parsed


_DRAWS: Final = 2**64


class FaultPlan:
    """Which requests fail how.

    Args:
        rates: Shares of the requests; together at most 1, a request fails in one way only.
    """

    def __init__(self, rates: Iterable[FaultRate]) -> None:
        self._rates = tuple(rates)
        if (total := sum(rate.rate for rate in self._rates)) > 1:
            raise ValueError(f"the fault rates sum up to {total}; together they are at most 1")

    def draw(self, request_id: str) -> Fault | None:
        """Return how the request with this id fails, None if it does not."""
        if not self._rates:
            return None
        digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / _DRAWS
        for rate in self._rates:
            if share < rate.rate:
                return rate.fault
            share -= rate.rate
        return None

"""What a verifier is: it reads a task and a candidate, and says how right the candidate is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

MAX_DETAIL_CHARACTERS = 500


class Status(StrEnum):
    """What is known of a candidate."""

    VERIFIED = "verified"
    UNDECIDED = "undecided"  # tried, and killed by a limit
    NOT_REACHED = "not-reached"  # not tried to the end in the time of the request; asking again may decide it


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known of a candidate, and why."""

    reward: float  # in [0, 1]; 0 where it is not verified
    detail: str  # at most MAX_DETAIL_CHARACTERS
    status: Status = Status.VERIFIED


class InvalidTask(ValueError):
    """The verifier cannot read the task; the message says what is wrong and what would be right."""


class VerifierUnavailable(RuntimeError):
    """The verifier cannot work on this machine; the message says what is missing and what would be right."""


class CannotVerify(RuntimeError):
    """Nothing can be said of any candidate at the moment, for a reason that is the machine's."""


class Verifier(Protocol):
    """Judges candidates. What it is given is hostile; its time and memory are bounded whatever that is."""

    name: str
    """The name by which programs ask for it."""

    async def prepare(self) -> None:
        """See whether it can work here; called once, before the first candidate.

        Raises:
            VerifierUnavailable: it cannot.
        """
        ...

    def check(self, task: str) -> None:
        """See quickly whether a task can be read at all.

        Raises:
            InvalidTask: it cannot.
        """
        ...

    async def verify(self, task: str, candidate: str) -> Verification:
        """Judge one candidate, a text of the model with whatever it says around its solution.

        Raises:
            InvalidTask: the task cannot be read, as a closer look has shown.
            CannotVerify: not now.
        """
        ...


def clipped(text: str) -> str:
    """Return a text as the detail of a verification: valid Unicode, and not too long."""
    printable = text.encode("utf-8", "replace").decode("utf-8")
    if len(printable) <= MAX_DETAIL_CHARACTERS:
        return printable
    return printable[: MAX_DETAIL_CHARACTERS - 1] + "…"

"""Which recorded text does a reply repeat, how far, and what is asked behind it? Pure.

A reply is what the assistant has said so far in a prompt, with a question behind it perhaps. Asked by the plays of
samples and chains; a tree is walked instead (`tree_play`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dynasor_serve.engines.replay.suffixes import GO_ON, Question, read_own, readings
from dynasor_serve.engines.replay.synthetic_text import find_sign

#: Fewer characters than these are taken for a coincidence where nothing but the text tells where a reply begins.
LEAST_CHARACTERS: Final = 8

_OPENING_CHARACTERS: Final = 24  # of a recorded text, looked for in a prompt


class RecordedText(NamedTuple):
    """One text that a reply may repeat.

    Attributes:
        number: Which of its question's texts.
        text: All of it.
        is_signed: It opens with the sign of its number (`synthetic_text`).
    """

    number: int
    text: str
    is_signed: bool


class Place(NamedTuple):
    """Where a reply stands in the recorded texts.

    Attributes:
        number: Of the text that it repeats.
        characters: How much of it.
        question: What is asked there.
    """

    number: int
    characters: int
    question: Question


def find_place(reply: str, texts: Iterable[RecordedText]) -> Place | None:
    """Return where a reply stands; None if it repeats none of the texts.

    A reply that repeats a text up to a known question, or to its own end, stands exactly there. Else it stands where it
    stops repeating the text that it repeats longest, and what is left of it is the question.

    Args:
        reply: What the assistant has said, and a question.
        texts: In the order of preference.
    """
    texts = tuple(texts)
    divided = tuple(readings(reply))
    for said, question in divided:
        for number, text, _ in texts:
            if text.startswith(said):
                return Place(number, len(said), question)
    said, question = divided[-1]
    repeated = [(_shared(said, each.text), each.number) for each in texts]
    characters, number = max(repeated, key=lambda each: each[0], default=(0, 0))
    if not characters:
        return None
    return Place(number, characters, read_own(said[characters:]) if question == GO_ON else question)


def find_start(region: str, texts: Sequence[RecordedText]) -> int | None:
    """Return where in a region of a prompt a reply begins; None if none does.

    Args:
        region: What stands behind the question's marker: more of the prompt, perhaps, and then the reply.
        texts: What the reply may repeat.
    """
    starts = []
    found = find_sign(region)
    if found is not None and any(each.is_signed and each.number == found[1] for each in texts):
        starts.append(found[0])
    for _, text, is_signed in texts:
        if not is_signed and (start := _find_opening(region, text[:_OPENING_CHARACTERS])) is not None:
            starts.append(start)
    return min(starts, default=None)


def _find_opening(region: str, opening: str) -> int | None:
    """Return where an opening stands in a region; a beginning of it counts at the region's end."""
    if len(opening) < LEAST_CHARACTERS:
        return None
    if (at := region.find(opening)) >= 0:
        return at
    at = region.find(opening[:LEAST_CHARACTERS], max(0, len(region) - len(opening)))
    return at if at >= 0 and opening.startswith(region[at:]) else None


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low

r"""What does a recording without a text say? Filler reasoning, and the final answer in `\boxed{}`. Pure.

A filler opens with a sign, one or more braille cells that number the text among those of its question. No prompt holds
one, and no two texts of a question share their first characters, so any prefix of a text tells which text it is of.
"""

from __future__ import annotations

import re
from typing import Final

# Free of digits, of stand-alone capitals, of line breaks, of "answer" and of hesitation words: nothing in it is an
# answer to an extractor, a doubt to a probe or a mark of reflection.
_REASONING: Final = (
    "Let us read the question once more and write down what is given. ",
    "The quantities relate to each other, so one equation follows from the other. ",
    "Substituting the first relation into the second leaves a single unknown. ",
    "Both sides can be simplified, and the common factor cancels. ",
    "Checking the boundary case shows that no solution was lost on the way. ",
    "The remaining expression is evaluated step by step, keeping the units. ",
    "Working through the other case in the same way gives nothing new. ",
    "Putting the pieces together, the result agrees with the first estimate. ",
)
_PASSAGES: Final = tuple("".join(_REASONING[i:] + _REASONING[:i]) for i in range(len(_REASONING)))

_FIRST_CELL: Final = 0x2801
_CELLS: Final = 254
_CARRY: Final = "\u28ff"  # how many times `_CELLS` the number is
_SIGN: Final = re.compile(f"({_CARRY}*)([\u2801-\u28fe])")


def sign(number: int) -> str:
    """Return the sign of text `number`; none is the beginning of another."""
    return _CARRY * (number // _CELLS) + chr(_FIRST_CELL + number % _CELLS)


def find_sign(text: str, start: int = 0) -> tuple[int, int] | None:
    """Return where the first sign of a text stands, and its number; None if there is none."""
    found = _SIGN.search(text, start)
    return None if found is None else (found.start(), len(found[1]) * _CELLS + ord(found[2]) - _FIRST_CELL)


def sentences(number: int, characters: int) -> str:
    """Return whole sentences of at most `characters` characters, different for neighbouring numbers."""
    text = stretch(number, 0, characters)
    return text[: text.rfind(". ") + 1] + " " if ". " in text else ""


def stretch(number: int, start: int, characters: int) -> str:
    """Return `characters` characters of endless filler, from character `start` on."""
    passage = _PASSAGES[number % len(_PASSAGES)]
    start %= len(passage)
    end = start + max(0, characters)
    return (passage * (end // len(passage) + 1))[start:end]


def last_sentence(answer: str | None) -> str:
    """Return the statement of an answer; empty where there is none."""
    return f"The final answer is \\boxed{{{answer}}}." if answer else ""

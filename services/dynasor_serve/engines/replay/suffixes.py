r"""What is asked behind a text? Tells the questions that programs put into a model's mouth from the text before them.

The built-in questions are known word for word (`programs.probe_prompts`, `programs.chain`, `programs.rewards`), so they
are cut off the end of a prompt exactly. A question of a user's own is what is left where a prompt stops repeating the
recorded text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from dynasor_serve.programs.probe_prompts import BUILT_IN


class Ask(StrEnum):
    """What a call asks for.

    `GO_ON`: the text that comes next. `PROBE`: the answer so far. `CONCLUDE`: the answer, with the thinking closed.
    `JUDGE`: whether the text is correct.
    """

    GO_ON = "go-on"
    PROBE = "probe"
    CONCLUDE = "conclude"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class Question:
    r"""A question, as far as it decides the answer.

    Attributes:
        ask: What is asked for.
        opened_box: It ends inside `\boxed{`.
        stated: The answer that it states itself, to be put into words.
    """

    ask: Ask
    opened_box: bool = False
    stated: str | None = None


GO_ON: Final = Question(Ask.GO_ON)


class Reading(NamedTuple):
    """One way to divide a reply: the text that the model has said, and what is asked behind it."""

    said: str
    question: Question


_CLOSED: Final = r"(?P<closed>\n</think>\n\n)?"
_JUDGE: Final = re.compile(
    _CLOSED + r"\n*Question: Is the solution [^\n]{1,80} correct\? Answer Yes or No\.\nAnswer:\Z"
)
_CONCLUDE: Final = re.compile(_CLOSED + r"\n\n\*\*Final Answer\*\*\n\\boxed\{\Z")
_STATED: Final = re.compile(_CLOSED + r"The final answer is \\boxed\{(?P<stated>[^\n]*)\}\.\n\n\Z")
_PROBES: Final = tuple(
    (re.compile(_CLOSED + re.escape(probe.suffix) + r"\Z"), Question(Ask.PROBE, probe.opened_box))
    for probe in BUILT_IN.values()
)
_OPENED_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{\s*\Z")
_THINKING_CLOSED: Final = re.compile(r"\n?</think>\s*")
_LONGEST_QUESTION: Final = 8192  # characters: what is read of a prompt's end


def readings(reply: str) -> Iterator[Reading]:
    """Yield the ways to read a reply, the shortest question first: none at all, then the known ones that it ends with.

    A text that ends with a line break makes one question look like another; the recorded text decides.
    """
    yield Reading(reply, GO_ON)
    tail = reply[-_LONGEST_QUESTION:]
    known = [(found, question) for pattern, question in _known(tail) if (found := pattern.search(tail))]
    for found, question in sorted(known, key=lambda each: -each[0].start()):
        yield Reading(reply[: len(reply) - len(tail) + found.start()], question)


def read_own(suffix: str) -> Question:
    """Return what a suffix asks that is none of the known: a question of the user's own."""
    if not suffix:
        return GO_ON
    closed = _THINKING_CLOSED.match(suffix)
    return Question(Ask.CONCLUDE if closed else Ask.PROBE, _OPENED_BOX.search(suffix) is not None)


def _known(tail: str) -> Iterator[tuple[re.Pattern[str], Question]]:
    yield _JUDGE, Question(Ask.JUDGE)
    yield _CONCLUDE, Question(Ask.CONCLUDE, opened_box=True)
    yield from _PROBES
    stated = _STATED.search(tail)
    yield _STATED, Question(Ask.CONCLUDE, stated=None if stated is None else stated["stated"])

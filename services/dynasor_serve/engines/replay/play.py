"""What may a question's recording be asked? One interface for samples (`sample_play`), chains (`chain_play`) and trees
(`tree_play`); `playback` asks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.suffixes import Ask
from dynasor_serve.engines.replay.token_odds import Judgement

#: The reward of what was recorded without one.
UNKNOWN_REWARD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Reply:
    """What stands in a prompt behind the question.

    Attributes:
        text: What the assistant has said so far, and what is asked behind it; empty for a fresh call.
        stop: The request's stop strings: they tell how the program divides a path into thoughts.
    """

    text: str = ""
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The recorded answer to a call, and what the call turned out to ask."""

    ask: Ask
    emission: Emission


class PathRewards(NamedTuple):
    """The recorded rewards of a path.

    Attributes:
        steps: Those of its steps, in [0, 1]; the last is that of the whole path.
        characters: How much of the path is recorded.
    """

    steps: Sequence[float]
    characters: int


#: Of no path at all.
NO_PATH: Final = PathRewards((UNKNOWN_REWARD,), 0)


class Play(Protocol):
    """The recording of one question."""

    @property
    def prompt_tokens(self) -> int | None:
        """The tokens of its prompt, where recorded."""

    def find_start(self, region: str) -> int | None:
        """Return where in a region of a prompt, behind its marker, the assistant's words begin; None if nowhere."""

    def turn(self, reply: Reply) -> str | None:
        """Return what calls without a branch take turns on; None where the reply itself decides."""

    def answer(self, reply: Reply, number: int) -> Answer | None:
        """Return what was recorded at a place; None if the reply repeats nothing recorded.

        Args:
            reply: Where the call goes on.
            number: Which of several alternatives: its branch, or its turn; it goes round.
        """

    def rewards(self, path: str) -> PathRewards | None:
        """Return the recorded rewards of a path; None if it is not recorded."""


def judgement(reward: float) -> Answer:
    """Return the reply to whether a path is correct: one token, whose log-probabilities tell the reward."""
    odds = Judgement(reward)
    return Answer(Ask.JUDGE, Emission(odds.text, 1, "length", odds=odds))

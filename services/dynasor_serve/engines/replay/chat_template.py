"""How does a chat become one text, and where in it does the assistant's unfinished turn begin? Pure.

In the manner of ChatML. A client that renders a chat here and goes on with it as a plain completion sends the text back
with more behind it: `parse` undoes `render` so far as to find question and turn again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_TURN: Final = "<|im_start|>{}\n{}"
_END: Final = "<|im_end|>\n"
_ASSISTANT: Final = _TURN.format("assistant", "")
_USER_TURN: Final = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>\n", re.DOTALL)


class Turn(NamedTuple):
    """One message of a chat."""

    role: str
    content: str


class Prompt(NamedTuple):
    """A prompt as the replay sees it.

    Attributes:
        text: All of it, as a model would read it: where markers and cached prefixes are looked for.
        questions: What may equal a recorded prompt or question: the prompt of a completion, the user's messages of a
            chat, the last one first.
        reply_at: Where in `text` the assistant's unfinished turn begins; None where only the record's prompt can tell.
    """

    text: str
    questions: tuple[str, ...]
    reply_at: int | None = None


def render(turns: Sequence[Turn], *, add_generation_prompt: bool, continue_final_message: bool = False) -> Prompt:
    """Return a chat as one prompt.

    Args:
        turns: Its messages.
        add_generation_prompt: The assistant's turn is opened behind them.
        continue_final_message: The last message is left open: the model goes on with it.
    """
    text = "".join(_TURN.format(*turn) + _END for turn in turns)
    reply_at = None
    if continue_final_message:
        text = text.removesuffix(_END)
        reply_at = len(text) - len(turns[-1].content)
    elif add_generation_prompt:
        text += _ASSISTANT
    questions = tuple(turn.content for turn in reversed(turns) if turn.role == "user")
    return Prompt(text, questions, len(text) if reply_at is None else reply_at)


def parse(text: str) -> Prompt:
    """Return the prompt of a completion, which may be a rendered chat with more behind it."""
    opened = text.rfind(_ASSISTANT)
    if opened < 0:
        return Prompt(text, (text,))
    reply_at = opened + len(_ASSISTANT)
    questions = tuple(reversed(_USER_TURN.findall(text, 0, opened)))
    return Prompt(text, questions, reply_at)

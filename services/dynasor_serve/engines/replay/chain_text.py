"""What does a recorded chain read like, and which tokens are where in it? Pure.

A chain without a recorded text gets one of its recorded length: a sign, filler, "Wait" right behind each token at which
a trial answer was taken at a mark of reflection, and the final answer at the end. Between two marks characters are
spread evenly over the tokens, so every prefix has a position.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dynasor_serve.certaindex.probe_schedule import REFLECTION_MARKS
from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.records import Probe, ProbesRecord
from dynasor_serve.engines.replay.synthetic_text import last_sentence, sign, stretch
from dynasor_serve.engines.replay.token_odds import MadeUp
from dynasor_serve.engines.replay.token_offsets import TokenOffsets

_MARK: Final = "Wait, "  # one token
_MARKS: Final = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, REFLECTION_MARKS))})(?=\W)")
_SEEN_WITHIN_CHARACTERS: Final = 80  # of a mark's beginning: an engine may send 16 tokens at a time
#: Opens the thinking of a chain that is written with tags.
THINK: Final = "<think>\n"
_THOUGHT: Final = "\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class ChainText:
    """A chain's text, where its tokens end, its probes, and from which token on each of them was asked.

    A probe at a mark is asked about the text before the mark, which is complete a token or more before the mark is seen
    to be one. A recording tells where the chain was then; a recorded text tells where the mark begins.
    """

    text: str
    offsets: TokenOffsets
    probes: tuple[Probe, ...] = ()
    asked_from: tuple[int, ...] = ()

    def position(self, characters: int) -> int:
        """Return how many tokens lie within the first `characters` characters."""
        return self.offsets.whole_tokens(characters)

    def emission(self, record: ProbesRecord, name: str) -> Emission:
        """Return the whole chain."""
        return Emission(
            text=self.text,
            tokens=record.tokens,
            finish_reason="stop" if record.finished else "length",
            offsets=self.offsets,
            odds=MadeUp.of(name),
        )


class ChainTexts:
    """Renders chains, and keeps the latest: a chain is asked for again at each of its probes.

    Args:
        characters_per_token: Length of synthesised text per token; below 1 counts as 1, since a position within a text
            needs a character.
        capacity: Texts kept.
    """

    def __init__(self, *, characters_per_token: float, capacity: int = 256) -> None:
        self._characters_per_token = max(1.0, characters_per_token)
        self._capacity = capacity
        self._kept: OrderedDict[tuple[int, int], ChainText] = OrderedDict()  # (record's id(), number) -> text

    def of(self, record: ProbesRecord, number: int) -> ChainText:
        """Return the text of a chain, which is number `number` of its question."""
        key = (id(record), number)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = chain_text(record, number, characters_per_token=self._characters_per_token)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return kept


def chain_text(record: ProbesRecord, number: int, *, characters_per_token: float) -> ChainText:
    """Return the text of a chain: the recorded one, else a synthesised one.

    Args:
        record: The chain.
        number: Which of its question's chains it is.
        characters_per_token: Length of synthesised text per token, 1 or more.
    """
    if record.text is not None:
        end = (record.tokens, len(record.text))
        offsets = TokenOffsets.through((*(record.text_positions or ()), end))
        probes = record.trials()
        return ChainText(record.text, offsets, probes, tuple(_asked_from(probes, record.text, offsets)))
    return _synthesised(record, number, characters_per_token)


def _synthesised(record: ProbesRecord, number: int, characters_per_token: float) -> ChainText:
    if not record.tokens:
        return ChainText("", TokenOffsets.even(0, 0))
    probes = record.trials()
    marks = [probe.position for probe in probes if 0 < probe.position < record.tokens]
    text = (THINK if record.think_tags else "") + sign(number)
    points: list[tuple[int, int]] = []
    position = 0

    def think_until(token: int, ending: str = "") -> None:
        """Fill up to a token, with a character per token or more, and end with a blank or with `ending`."""
        nonlocal text, position
        length = int(token * characters_per_token) - int(position * characters_per_token)
        spoken, lead = (len(text), " ") if position == 0 else (0, "")
        room = max(token - position, length) - spoken - len(ending)
        if room > 0:
            text += (lead + stretch(number, int(position * characters_per_token), room))[: room - 1] + " "
        text += ending
        position = token
        points.append((token, len(text)))

    for mark in marks if record.is_probed_at_marks else ():
        think_until(mark)
        text += _MARK
        position += 1
        points.append((position, len(text)))
    think_until(record.tokens, _ending(record))
    return ChainText(text, TokenOffsets.through(points), probes, tuple(probe.position for probe in probes))


def _asked_from(probes: Iterable[Probe], text: str, offsets: TokenOffsets) -> Iterator[int]:
    seen = 0  # characters up to the last probe
    for probe in probes:
        end = offsets.characters_of(probe.position)
        marks = [mark.start() for mark in _MARKS.finditer(text, max(seen, end - _SEEN_WITHIN_CHARACTERS), end)]
        yield offsets.whole_tokens(marks[-1]) if marks else probe.position
        seen = end


def _ending(record: ProbesRecord) -> str:
    if not record.finished:
        return ""
    return (_THOUGHT if record.think_tags else "") + last_sentence(record.as_written(record.final_answer))

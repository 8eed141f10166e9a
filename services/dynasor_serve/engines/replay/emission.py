"""One completion as it will be sent, and in which pieces? Pure.

`playback` trims a recorded text to the request and cuts it into the events that `engine` paces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dynasor_serve.engines.replay.token_odds import UNKNOWN, TokenOdds
from dynasor_serve.engines.replay.token_offsets import TokenOffsets

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Emission:
    """One choice as it will be sent.

    Attributes:
        text: All of it.
        tokens: Completion tokens that the text counts for.
        finish_reason: As the engine reports it.
        stop_reason: The stop string that ended it, if one did.
        offsets: Where its tokens end; None: it is spread evenly over them.
        odds: How probable its tokens were.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    stop_reason: str | None = None
    offsets: TokenOffsets | None = None
    odds: TokenOdds = UNKNOWN

    def piece(self, first: int, last: int) -> str:
        """Return the text of the tokens after `first` up to `last`."""
        return self.text[self.offset(first) if first else 0 : self.offset(last)]

    def offset(self, token: int) -> int:
        """Return how many characters the first `token` tokens make."""
        if token >= self.tokens:
            return len(self.text)
        if self.offsets is None:
            return len(self.text) * token // self.tokens
        return min(self.offsets.characters_of(token), len(self.text))

    def after(self, characters: int) -> Emission:
        """Return what is left behind the first `characters` characters; a token of which a part is left counts."""
        done = self._all_offsets.whole_tokens(characters)
        return replace(
            self,
            text=self.text[characters:],
            tokens=self.tokens - done,
            offsets=self._all_offsets.after(done, characters),
            odds=self.odds.after(done),
        )

    def trimmed(self, *, max_tokens: int | None, stop: Iterable[str] = (), keep_stop: bool = False) -> Emission:
        """Cut it where the request's token limit or the first stop string ends it.

        Args:
            max_tokens: Limit of completion tokens; None for none.
            stop: Stop strings; the one that is complete first ends the text.
            keep_stop: Whether the stop string stays in the text.
        """
        emission = self
        if max_tokens is not None and max_tokens < self.tokens:
            emission = self._until(max_tokens, self.offset(max_tokens), "length", None)
        ends = [(at + len(word), at, word) for word in stop if word and (at := emission.text.find(word)) >= 0]
        if not ends:
            return emission
        end, at, word = min(ends)
        tokens = self._all_offsets.touched_tokens(end)  # the last of them completes the stop string
        return self._until(tokens, end if keep_stop else at, "stop", word)

    @property
    def _all_offsets(self) -> TokenOffsets:
        return self.offsets or TokenOffsets.even(self.tokens, len(self.text))

    def _until(self, tokens: int, characters: int, finish_reason: FinishReason, stop_reason: str | None) -> Emission:
        """Cut it. Its tokens end where they ended before, so that a prefix of what is sent keeps its position."""
        return Emission(
            self.text[:characters], tokens, finish_reason, stop_reason, offsets=self._all_offsets, odds=self.odds
        )


def plan_events(tokens: int, *, stream_interval: int, events_per_response: int | None) -> Sequence[int]:
    """Return the running token count at each event; the last is `tokens`, and there is at least one event.

    Args:
        tokens: Completion tokens of the choice.
        stream_interval: vLLM's `--stream-interval`: the first token at once, then an event every so many tokens.
        events_per_response: Cut into this many events of equal size instead (fewer where there are fewer tokens).
    """
    if tokens == 0:
        return (0,)
    if events_per_response is not None:
        events = min(events_per_response, tokens)
        return tuple(-(-tokens * event // events) for event in range(1, events + 1))
    return (*range(1, tokens, stream_interval), tokens)

"""Where in a text does a token end? Pure arithmetic between tokens and characters.

A recording tells how many tokens a text has, and at a few points of it how many characters they make; between two
points characters are spread evenly over the tokens. `emission` cuts texts by it, and `chain_text` finds positions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class TokenOffsets:
    """Points of a text, from its beginning (0, 0) to its end.

    Where every token has a character or more, `whole_tokens` undoes `characters_of`.

    Attributes:
        tokens: Tokens before each point, increasing.
        characters: Characters before each point, not decreasing, as many.
    """

    tokens: tuple[int, ...]
    characters: tuple[int, ...]

    @classmethod
    def through(cls, points: Iterable[tuple[int, int]]) -> Self:
        """Build from (tokens, characters); of points with equal tokens the last counts."""
        of_tokens = {0: 0} | dict(points)
        return cls(tuple(of_tokens), tuple(of_tokens.values()))

    @classmethod
    def even(cls, tokens: int, characters: int) -> Self:
        """Build for a text of which nothing but its length is known."""
        return cls.through([(tokens, characters)])

    def characters_of(self, token: int) -> int:
        """Return how many characters the first `token` tokens make."""
        at = bisect_right(self.tokens, token) - 1
        if at + 1 == len(self.tokens):
            return self.characters[-1]
        tokens, characters = self._segment(at)
        return self.characters[at] + characters * (token - self.tokens[at]) // tokens

    def whole_tokens(self, characters: int) -> int:
        """Return how many tokens lie within the first `characters` characters whole."""
        at = bisect_right(self.characters, characters) - 1
        if at < 0:  # characters that no token makes
            return 0
        if at + 1 == len(self.characters):
            return self.tokens[-1]
        tokens, length = self._segment(at)
        return self.tokens[at] + ((characters - self.characters[at] + 1) * tokens - 1) // length

    def touched_tokens(self, characters: int) -> int:
        """Return how many tokens it takes to have the first `characters` characters."""
        at = bisect_left(self.characters, characters) - 1
        if at < 0:
            return 0
        if at + 1 == len(self.characters):
            return self.tokens[-1]
        tokens, length = self._segment(at)
        return self.tokens[at] - (-(characters - self.characters[at]) * tokens // length)

    def after(self, token: int, character: int) -> TokenOffsets:
        """Return the points of what follows the first `token` tokens and `character` characters.

        Points before that become negative: they keep every later token where it ended.
        """
        return TokenOffsets(tuple(t - token for t in self.tokens), tuple(c - character for c in self.characters))

    def _segment(self, at: int) -> tuple[int, int]:
        """Return (tokens, characters) from point `at` to the next."""
        return self.tokens[at + 1] - self.tokens[at], self.characters[at + 1] - self.characters[at]

"""A reversible stand-in for a tokenizer: text -> ids -> text is exact. Pure.

The recordings hold no vocabulary, so a token here is four characters of the alphabets before U+0FFF, which is the size
that `prefix_cache` reckons with, or any other single character. Ids stay below 2^53, which JSON numbers carry exactly.
They mean nothing to any other engine, and they are not the tokens that a recording counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from dynasor_serve.engines.replay.prefix_cache import CHARACTERS_PER_TOKEN

_DIGIT_BITS: Final = 12  # a character of a group is a digit, its code plus 1: no digit is 0
_DIGIT: Final = 2**_DIGIT_BITS
_SINGLE: Final[int] = 2 ** (_DIGIT_BITS * CHARACTERS_PER_TOKEN)  # ids from here on are single characters
_TOKEN: Final = re.compile(rf"[\x00-\u0ffe]{{1,{CHARACTERS_PER_TOKEN}}}|[^\x00-\u0ffe]")
_SURROGATES: Final = range(0xD800, 0xE000)


class UnknownToken(ValueError):
    """An id that no text has."""


def pieces(text: str) -> list[str]:
    """Return a text cut into tokens."""
    return _TOKEN.findall(text)


def encode(text: str) -> list[int]:
    """Return the ids of a text."""
    return [_id(piece) for piece in pieces(text)]


def decode(ids: Iterable[int]) -> str:
    """Return the text of some ids.

    Raises:
        UnknownToken: An id is none.
    """
    return "".join(map(_piece, ids))


def _id(piece: str) -> int:
    if ord(piece[0]) >= _DIGIT - 1:
        return _SINGLE + ord(piece)
    number = 0
    for character in reversed(piece):
        number = number * _DIGIT + ord(character) + 1
    return number


def _piece(token: int) -> str:
    if token >= _SINGLE:
        code = token - _SINGLE
        if not _DIGIT - 1 <= code <= 0x10FFFF or code in _SURROGATES:
            raise UnknownToken(f"token id {token} is out of vocabulary")
        return chr(code)
    characters = []
    number = token
    while number > 0:
        number, digit = divmod(number, _DIGIT)
        if digit == 0:
            break
        characters.append(chr(digit - 1))
    if number or not characters:
        raise UnknownToken(f"token id {token} is out of vocabulary")
    return "".join(characters)

"""The log-probabilities of an emission in the two shapes of vLLM's endpoints. What they are is up to `token_odds`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.token_odds import Alternative


class _Token(NamedTuple):
    """One token: where it stands, its text and log-probability, and the most probable tokens there, itself first."""

    offset: int
    text: str
    logprob: float
    top: list[Alternative]


def completion_logprobs(emission: Emission, first: int, last: int, count: int) -> bytes:
    """Return `logprobs` of a completion for the tokens after `first` up to `last`.

    Args:
        emission: The choice.
        first: Tokens before.
        last: Tokens up to the end.
        count: The request's `logprobs`: entries per token; the token itself is always one of them.
    """
    tokens = list(_tokens(emission, first, last, max(1, count)))
    return _encode(
        {
            "text_offset": [token.offset for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "tokens": [token.text for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens],
        },
        tokens,
    )


def chat_logprobs(emission: Emission, first: int, last: int, count: int) -> bytes:
    """Return `logprobs` of a chat's choice for the tokens after `first` up to `last`.

    Args:
        emission: The choice.
        first: Tokens before.
        last: Tokens up to the end.
        count: The request's `top_logprobs`: entries of `top_logprobs` per token.
    """
    tokens = list(_tokens(emission, first, last, count))
    content = [
        {**_entry(token.text, token.logprob), "top_logprobs": [_entry(*each) for each in token.top]} for token in tokens
    ]
    return _encode({"content": content}, tokens)


def _tokens(emission: Emission, first: int, last: int, count: int) -> Iterator[_Token]:
    for token in range(first, last):
        text, logprob = emission.piece(token, token + 1), emission.odds.logprob(token)
        alternatives = emission.odds.alternatives(token, count - 1) if count > 1 else ()
        top = [(text, logprob), *alternatives][:count]
        yield _Token(emission.offset(token) if token else 0, text, logprob, top)


def _entry(text: str, logprob: float) -> dict[str, object]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _encode(fields: dict[str, object], tokens: list[_Token]) -> bytes:
    """Write JSON; a fault's NaN as engines write it that do not check, which is no JSON."""
    if any(math.isnan(token.logprob) for token in tokens):
        return json.dumps(fields).encode()
    return msgspec.json.encode(fields)

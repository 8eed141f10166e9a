"""What goes wrong on purpose: faults to try clients against.

`playback` and `rewarding` draw once per request. The draw follows from the request id alone, so a run can be repeated,
and another attempt of the same call draws anew.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.play import judgement
from dynasor_serve.engines.replay.suffixes import Ask
from dynasor_serve.engines.replay.synthetic_text import stretch
from dynasor_serve.engines.replay.token_offsets import TokenOffsets


class Fault(StrEnum):
    """The ways in which an answer fails.

    Of any call: `GARBAGE`: bytes that are not what the content type says. `HANG`: the call takes its slot and never
    says anything. `ERROR_500`: an error body. `CUT_STREAM`: the connection closes half-way.

    Of a probe or a conclusion: `EMPTY_PROBE`: nothing but an end. `HUGE_PROBE`: 10 MB behind the answer, whatever
    `max_tokens` says.

    Of a judgement by the model itself and of a reward model's: `NAN_REWARD`: not a number, as engines write it that do
    not check their JSON. `WILD_REWARD`: a number outside [0, 1], of raw values infinity, and log-probabilities
    above 0 of the model itself. `HANG_REWARD`: as `HANG`.

    Of a call that goes on: `ENDLESS_CHAIN`: half-way the text goes round in a circle, up to `max_tokens`.
    """

    GARBAGE = "garbage"
    HANG = "hang"
    ERROR_500 = "error-500"
    CUT_STREAM = "cut-stream"
    EMPTY_PROBE = "empty-probe"
    HUGE_PROBE = "huge-probe"
    NAN_REWARD = "nan-reward"
    WILD_REWARD = "wild-reward"
    HANG_REWARD = "hang-reward"
    ENDLESS_CHAIN = "endless-chain"


_PROBES: Final = frozenset({Ask.PROBE, Ask.CONCLUDE})
_REWARDS: Final = frozenset({Ask.JUDGE})

#: Fault -> the calls that it befalls; the others befall every call.
_VICTIMS: Final[Mapping[Fault, frozenset[Ask]]] = {
    Fault.EMPTY_PROBE: _PROBES,
    Fault.HUGE_PROBE: _PROBES,
    Fault.NAN_REWARD: _REWARDS,
    Fault.WILD_REWARD: _REWARDS,
    Fault.HANG_REWARD: _REWARDS,
    Fault.ENDLESS_CHAIN: frozenset({Ask.GO_ON}),
}

#: Fault -> the reward that it makes of any.
BAD_REWARDS: Final[Mapping[Fault, float]] = {Fault.NAN_REWARD: math.nan, Fault.WILD_REWARD: 7.5}

#: Faults of a call that takes its slot and never says anything.
HANGING: Final = frozenset({Fault.HANG, Fault.HANG_REWARD})

_HUGE_CHARACTERS: Final = 10 * 2**20
_CIRCLE_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class FaultRate:
    """A share of the requests that fails in one way."""

    fault: Fault
    rate: float

    @classmethod
    def parse(cls, text: str) -> FaultRate:
        """Read `KIND:RATE`, such as `hang:0.05`.

        Raises:
            ValueError: The kind is unknown or the rate is not in [0, 1].
        """
        kind, _, rate = text.partition(":")
        if kind not in set(Fault):
            raise ValueError(f"unknown fault {kind!r}; give one of {', '.join(Fault)}, as in hang:0.05")
        try:
            parsed = cls(Fault(kind), float(rate))
        except ValueError as error:
            raise ValueError(f"fault {text!r} has no rate; give a share of the requests, as in hang:0.05") from error
        if not 0 <= parsed.rate <= 1:
            raise ValueError(f"the rate of fault {text!r} is not in [0, 1]")
        return parsed

    def befalls(self, ask: Ask) -> bool:
        """Whether calls that ask this can fail so."""
        return ask in _VICTIMS.get(self.fault, Ask)


_DRAWS: Final = 2**64


class FaultPlan:
    """Which requests fail how.

    Args:
        rates: Shares of the requests that can fail so; those that one request can fail by are together at most 1, since
            it fails in one way only.
    """

    def __init__(self, rates: Iterable[FaultRate]) -> None:
        rates = tuple(rates)
        self._rates = {ask: [rate for rate in rates if rate.befalls(ask)] for ask in Ask}
        for ask, befalling in self._rates.items():
            if (total := sum(rate.rate for rate in befalling)) > 1:
                raise ValueError(f"the fault rates of {ask} calls sum up to {total}; together they are at most 1")

    def draw(self, request_id: str, ask: Ask) -> Fault | None:
        """Return how the request with this id fails, None if it does not."""
        if not self._rates[ask]:
            return None
        digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / _DRAWS
        for rate in self._rates[ask]:
            if share < rate.rate:
                return rate.fault
            share -= rate.rate
        return None


def spoiled(fault: Fault | None, emission: Emission, *, limit: int, characters_per_token: float) -> Emission:
    """Return what a faulty engine sends instead of an emission; most faults leave the text alone.

    Args:
        fault: What goes wrong.
        emission: What should have been sent, trimmed to the request.
        limit: Most completion tokens.
        characters_per_token: Length of synthesised text per token.
    """
    match fault:
        case Fault.EMPTY_PROBE:
            return Emission("", 1, "stop")
        case Fault.HUGE_PROBE:
            return Emission(
                emission.text + stretch(0, 0, _HUGE_CHARACTERS), emission.tokens, "stop", odds=emission.odds
            )
        case Fault.NAN_REWARD | Fault.WILD_REWARD:
            return judgement(BAD_REWARDS[fault]).emission
        case Fault.ENDLESS_CHAIN:
            return _endless(emission, limit, max(1.0, characters_per_token))
    return emission


def _endless(emission: Emission, limit: int, characters_per_token: float) -> Emission:
    """Return the first half of a text, and then its last words again and again."""
    tokens = min(limit, emission.tokens // 2)
    begun = emission.text[: emission.offset(tokens)]
    circle = begun[-_CIRCLE_CHARACTERS:] or stretch(0, 0, _CIRCLE_CHARACTERS)
    characters = int((limit - tokens) * characters_per_token)
    text = begun + (circle * (characters // len(circle) + 1))[:characters]
    offsets = TokenOffsets.through([(tokens, len(begun)), (limit, len(text))])
    return Emission(text, limit, "length", offsets=offsets)

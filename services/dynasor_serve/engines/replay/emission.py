"""What text does a recorded sample become, and in which pieces? Pure.

`app` renders a sample, trims it to the request, and cuts it into the events that `engine` paces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from dynasor_serve.engines.replay.traces import SamplesRecord

FinishReason = Literal["stop", "length"]

# Free of digits, of stand-alone capitals, of "answer" and of hesitation words: nothing in it is an answer to an
# extractor or a doubt to a probe.
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


@dataclass(frozen=True, slots=True)
class Emission:
    """One choice as it will be sent.

    Attributes:
        text: All of it.
        tokens: Completion tokens that the text counts for.
        finish_reason: As the engine reports it.
        stop_reason: The stop string that ended it, if one did.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    stop_reason: str | None = None

    def piece(self, first: int, last: int) -> str:
        """Return the text of the tokens after `first` up to `last`; the text is spread evenly over the tokens."""
        return self.text[self._offset(first) if first else 0 : self._offset(last)]

    def _offset(self, token: int) -> int:
        return len(self.text) if token >= self.tokens else len(self.text) * token // self.tokens


def render(record: SamplesRecord, sample_index: int, *, characters_per_token: float) -> Emission:
    r"""Turn a sample into its text: the recorded one, else filler reasoning and the final answer in `\boxed{}`.

    Args:
        record: The question.
        sample_index: Which of its samples.
        characters_per_token: Length of synthesised text per recorded token; 0 leaves the last sentence alone.
    """
    sample = record.samples[sample_index]
    finish_reason: FinishReason = "stop" if sample.finished else "length"
    if sample.text is not None:
        return Emission(sample.text, sample.tokens, finish_reason)
    answer = record.answer_text(sample)
    last_sentence = "" if answer is None else f"The final answer is \\boxed{{{answer}}}."
    characters = int(sample.tokens * characters_per_token) - len(last_sentence)
    return Emission(_filler(sample_index, characters) + last_sentence, sample.tokens, finish_reason)


def trim(emission: Emission, *, max_tokens: int | None, stop: Iterable[str] = (), keep_stop: bool = False) -> Emission:
    """Cut an emission where the request's token limit or the first stop string ends it.

    Args:
        emission: The whole sample.
        max_tokens: Limit of completion tokens; None for none.
        stop: Stop strings; the one that is complete first ends the text.
        keep_stop: Whether the stop string stays in the text.
    """
    if max_tokens is not None and max_tokens < emission.tokens:
        emission = Emission(emission.piece(0, max_tokens), max_tokens, "length")
    ends = [(at + len(word), at, word) for word in stop if word and (at := emission.text.find(word)) >= 0]
    if not ends:
        return emission
    end, at, word = min(ends)
    tokens = -(-end * emission.tokens // len(emission.text))  # the token that completes the stop string
    return replace(
        emission,
        text=emission.text[: end if keep_stop else at],
        tokens=tokens,
        finish_reason="stop",
        stop_reason=word,
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


def _filler(sample_index: int, characters: int) -> str:
    """Return whole sentences of at most `characters` characters, different for neighbouring samples."""
    passage = _PASSAGES[sample_index % len(_PASSAGES)]
    text = (passage * (max(0, characters) // len(passage) + 1))[: max(0, characters)]
    return text[: text.rfind(". ") + 1] + " " if ". " in text else ""

"""What the log-probabilities of a reply say: how sure the model was of its words, and whether it says yes.

Made by `client` for a call whose plan asks for any of it; others pay nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

from dynasor_serve.certaindex.answers import closing_brace
from dynasor_serve.certaindex.token_confidence import GroupConfidence, mean_probability, token_confidence
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.wire import SampledToken
from dynasor_serve.programs.calls import CallPlan, Judge

# As many as vLLM gives unless it is started with a larger --max-logprobs, and OpenAI at most.
MOST_LIKELIEST = 20

# Marks of a word's beginning in vocabularies of which a server shows the raw tokens.
_SPACES = " \t\n\r\u0120\u2581"


def likeliest_tokens(plan: CallPlan) -> int:
    """How many log-probabilities are asked for in each place; 0 for none."""
    if plan.token_window or plan.judge is Judge.OWN:
        return MOST_LIKELIEST
    return int(plan.asks_probability)


class TokenEvidence:
    """Listens to the tokens of one reply.

    Attributes:
        first: the likeliest tokens in the first place; None before it.
    """

    __slots__ = ("_asks_probability", "_group", "_heard", "_opened_box", "first")

    def __init__(self, plan: CallPlan) -> None:
        self._asks_probability = plan.asks_probability
        self._opened_box = plan.opened_box
        self._group = GroupConfidence(plan.token_window) if plan.token_window else None
        self._heard: list[tuple[str, float]] = []  # (token, log-probability)
        self.first: tuple[tuple[str, float], ...] | None = None

    def hear(self, tokens: Iterable[SampledToken]) -> None:
        """Takes the tokens of one event. Raises `EngineError` where no token was possible in a place."""
        for token in tokens:
            if self.first is None:
                self.first = token.top
            if self._asks_probability and token.logprob is not None:
                self._heard.append((token.text, token.logprob))
            if self._group is not None and token.top:
                # A token that is not among the likeliest comes beside them.
                likeliest = sorted((logprob for _, logprob in token.top), reverse=True)[:MOST_LIKELIEST]
                try:
                    self._group.add(token_confidence(likeliest))
                except ValueError as error:
                    message = f"the engine sent log-probabilities that cannot be: {error}"
                    raise EngineError(EngineReason.ENGINE_GARBAGE, message) from error

    @property
    def lowest_confidence(self) -> float | None:
        """The lowest group confidence so far; None until a window of tokens was seen."""
        return None if self._group is None else self._group.lowest

    @property
    def confidence(self) -> float | None:
        """The lowest group confidence of the whole reply."""
        return None if self._group is None else self._group.at_end

    @property
    def probability(self) -> float | None:
        """Mean probability of the reply's tokens, in [0, 1]: of an opened box those up to the one that closes it.

        That one counts: an answer that may go on is no sure answer.
        """
        heard = self._heard
        if self._opened_box and heard:
            heard = heard[: _tokens_of_box([text for text, _ in heard])]
        return min(1.0, mean_probability([logprob for _, logprob in heard])) if heard else None


def probability_of_yes(likeliest: Iterable[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)) for the next token, in any case, with or without a space; None where neither is likely.

    Args:
        likeliest: (token, log-probability).
    """
    yes = no = 0.0
    for text, logprob in likeliest:
        word = text.strip(_SPACES).casefold()
        yes += exp(logprob) if word == "yes" else 0.0
        no += exp(logprob) if word == "no" else 0.0
    return yes / (yes + no) if yes or no else None


def _tokens_of_box(texts: list[str]) -> int:
    """How many tokens there are up to the one with the brace that closes the box; all where none does."""
    closing = closing_brace("".join(texts))
    if closing is None:
        return len(texts)
    end = 0
    for index, text in enumerate(texts, start=1):
        end += len(text)
        if end > closing:
            return index
    return len(texts)

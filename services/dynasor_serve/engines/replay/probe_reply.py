r"""How does a recorded probe answer read? Pure.

`7}` behind a box that the question has opened, else `\boxed{7}`; a reply that was recorded as hesitant goes on
"... Wait, hmm". It has as many tokens as were recorded: the answer has a token for about three characters of it, the
rest of the tokens go to what follows.
"""

from __future__ import annotations

from typing import Final

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.records import Probe
from dynasor_serve.engines.replay.suffixes import Question
from dynasor_serve.engines.replay.token_odds import Even, MadeUp
from dynasor_serve.engines.replay.token_offsets import TokenOffsets

_HESITATION: Final = " ... Wait, hmm."
_HESITATION_TOKENS: Final = 4
_ANSWER_CHARACTERS_PER_TOKEN: Final = 3

#: What a chain answers before it was first probed.
NOTHING: Final = Probe(position=0, answer="", certain=True, confidence=None, tokens=1)


def probe_reply(probe: Probe, question: Question, *, name: str) -> Emission:
    """Return the reply to a probe.

    Args:
        probe: What was recorded.
        question: What was asked.
        name: Tells made-up probabilities apart.
    """
    odds = MadeUp.of(f"{name} {probe.position}") if probe.confidence is None else Even(probe.confidence)
    answer = _written(probe.answer, question)
    if not answer or not probe.tokens:
        return Emission(answer if probe.tokens else "", probe.tokens, "stop", odds=odds)
    if probe.answer.count("{") > probe.answer.count("}"):  # it was cut off in the middle: nothing can follow
        return Emission(answer.removesuffix("}"), probe.tokens, "length", odds=odds)
    rest = "." if probe.certain else _HESITATION
    answer_tokens = min(max(1, probe.tokens - 1), -(-len(answer) // _ANSWER_CHARACTERS_PER_TOKEN))
    rest_tokens = min(probe.tokens, answer_tokens + _HESITATION_TOKENS)
    text = answer + rest
    points = [(answer_tokens, len(answer)), (rest_tokens, len(text)), (probe.tokens, len(text))]
    return Emission(text, probe.tokens, "stop", offsets=TokenOffsets.through(points), odds=odds)


def stated_reply(answer: str) -> Emission:
    """Return the prose behind a question that states the answer itself."""
    text = f"So the answer is \\boxed{{{answer}}}."
    return Emission(text, -(-len(text) // _ANSWER_CHARACTERS_PER_TOKEN), "stop", odds=MadeUp.of(text))


def final_probe(answer: str, position: int) -> Probe:
    """Return what a text that has come to its end answers: what it says itself."""
    tokens = -(-(len(answer) + 2) // _ANSWER_CHARACTERS_PER_TOKEN)
    return Probe(position=position, answer=answer, certain=True, confidence=None, tokens=tokens)


def _written(answer: str, question: Question) -> str:
    closed = answer + (" }" if answer.endswith("\\") else "}")  # a backslash would take the brace for its own
    if question.opened_box:
        return closed
    return f"\\boxed{{{closed}" if answer else ""

"""What a program asks of an engine: one plan per call.

An algorithm plans its calls (`algorithm.Algorithm.call`); `engines.client` turns a plan into a request, and
`tracker.gang` watches the calls that are to be watched.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.programs.query import Message

# Tokens of a chain after which its text is made durable whether it is probed or not.
CHECKPOINT_TOKENS = 256

_END_OF_THINKING = "\n</think>\n\n"


class Judge(StrEnum):
    """Who gives a path its reward."""

    OWN = "own"  # the same model: its probability of "Yes" to whether the solution is correct
    MODEL = "model"  # a reward model, in a pool of its own


@dataclass(frozen=True, slots=True)
class ProbePrompt:
    """How a half-finished chain is asked for its answer: text put behind it, and how its reply is sampled.

    Attributes:
        suffix: put behind the chain's text.
        opened_box: the suffix ends inside `\\boxed{`, so the reply is read up to the first unmatched brace.
        closes_thinking: an open `<think>` is closed before the suffix.
        max_tokens: of the reply, in tokens.
        temperature: of the reply.
    """

    suffix: str
    opened_box: bool
    closes_thinking: bool = False
    max_tokens: int = 20
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Watch:
    """How a running chain is looked at.

    Attributes:
        schedule: when it is probed.
        probe: how it is probed; None where it is only checkpointed.
        position: tokens of the chain before this call: those of the continuation.
        checkpoint_tokens: the chain's text is made durable at least so often, and at each probe.
    """

    schedule: ProbeSchedule
    probe: ProbePrompt | None
    position: int = 0
    checkpoint_tokens: int = CHECKPOINT_TOKENS


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What one call asks, beyond what the query says.

    The engine sees the query's input, then `turns`, then the assistant's unfinished turn: `continuation`, the closing
    of an open `<think>` where `closes_thinking`, and `suffix`. It goes on from there.

    Attributes:
        turns: further turns of a conversation, behind the query's own.
        continuation: what the model has said so far.
        suffix: what is put into its mouth.
        closes_thinking: an open `<think>` is closed between the two.
        opened_box: the suffix ends inside `\\boxed{`.
        max_tokens: most completion tokens; None means the query's.
        temperature: None means the query's.
        stop: strings that end the completion; None means the query's.
        keeps_stop: the string that ended it belongs to the text.
        watch: set for a chain that is checkpointed and probed while it runs.
        token_window: tokens over which the lowest group confidence is taken (arXiv 2508.15260); 0 asks for no
            log-probabilities.
        asks_probability: whether the mean probability of the reply's tokens is asked for; with an opened box, of those
            up to its closing brace.
        judge: set for a call that asks for the reward of `continuation`.
        pool: where it runs; empty means the query's pool.
        text_is_evidence: what it says is judged, gone on from or asked about again, so it is kept whole or not at all;
            else it is only shown, and kept as far as there is room.
    """

    turns: tuple[Message, ...] = ()
    continuation: str = ""
    suffix: str = ""
    closes_thinking: bool = False
    opened_box: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] | None = None
    keeps_stop: bool = False
    watch: Watch | None = None
    token_window: int = 0
    asks_probability: bool = False
    judge: Judge | None = None
    pool: str = ""
    text_is_evidence: bool = True

    @property
    def continues(self) -> bool:
        """Whether the engine must go on inside the assistant's turn, or may have to later, behind a chain or a step."""
        return bool(self.continuation or self.suffix or self.watch is not None or self.keeps_stop)

    @property
    def goes_on_thinking(self) -> bool:
        """Whether the turn ends inside a `<think>` of its own."""
        return _is_thinking(self.turn())

    def turn(self, before: str = "") -> str:
        """The assistant's unfinished turn, which the engine goes on with.

        Args:
            before: the text before it, as far as it is known; a template may open the `<think>` there.
        """
        closing = _END_OF_THINKING if self.closes_thinking and _is_thinking(before, self.continuation) else ""
        return self.continuation + closing + self.suffix


def _is_thinking(*texts: str) -> bool:
    """Whether the last `<think>` of consecutive texts is open."""
    for text in reversed(texts):
        opened, closed = text.rfind("<think>"), text.rfind("</think>")
        if opened != closed:
            return opened > closed
    return False


SAMPLE = CallPlan()  # the query as it stands

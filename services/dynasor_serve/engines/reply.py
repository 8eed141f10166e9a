"""What comes of a call: its events put together to a completion.

Made by `client` for each streamed reply.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dynasor_serve.engines import wire
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.requests import CallRequest
from dynasor_serve.engines.token_evidence import TokenEvidence, likeliest_tokens, probability_of_yes
from dynasor_serve.programs.calls import Judge

MAX_TEXT_CHARACTERS = 8_000_000
# No vocabulary comes near on average: what is longer is not what `max_tokens` tokens can say.
_CHARACTERS_PER_TOKEN = 200
_SPARE_CHARACTERS = 4096
_NO_END = ("", "abort", "error")  # finish reasons of a completion that is none


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call yields when it runs to its end.

    Attributes:
        text: of the completion; empty where a reward model was asked.
        finish_reason: in the engine's words: "stop", "length".
        stopped_at: the stop string that ended it; None where none did, or the engine does not say.
        probability: mean probability of the reply's tokens, in [0, 1]; None where the plan did not ask, or the engine
            does not say.
        confidence: the lowest group confidence of the call, of all its tokens where they are fewer than a window; None
            as for `probability`.
        reward: in [0, 1]; None where the plan asked for none.
    """

    text: str
    finish_reason: str
    stopped_at: str | None = None
    probability: float | None = None
    confidence: float | None = None
    reward: float | None = None


class Reply:
    """What has come of a reply so far.

    Attributes:
        evidence: what its log-probabilities say; None where the plan asks for none.
    """

    __slots__ = (
        "_characters", "_finish_reason", "_goes_on_thinking", "_is_reasoning", "_most_characters", "_opened_thought",
        "_parts", "_request", "_stopped_by", "evidence",
    )  # fmt: skip

    def __init__(self, request: CallRequest, parts: list[str], opened_thought: str = "") -> None:
        """Begins a reply.

        Args:
            request: what it replies to.
            parts: takes its text.
            opened_thought: the `<think>` before it, which belongs to its text; see `requests.Asked`.
        """
        self._request = request
        self._parts = parts
        self._characters = 0
        self._most_characters = min(MAX_TEXT_CHARACTERS, request.max_tokens * _CHARACTERS_PER_TOKEN + _SPARE_CHARACTERS)
        self._finish_reason = ""
        self._stopped_by: int | str | msgspec.UnsetType | None = msgspec.UNSET
        self._is_reasoning = False
        self._opened_thought = opened_thought  # until the first text
        self._goes_on_thinking = request.plan.goes_on_thinking  # until the first text
        self.evidence = TokenEvidence(request.plan) if likeliest_tokens(request.plan) else None

    def take(self, choice: wire.Choice) -> str:
        """Takes what an event adds, and returns the new text."""
        new, self._is_reasoning = _text(choice, self._is_reasoning)
        if new and self._goes_on_thinking:
            new, self._goes_on_thinking = new.removeprefix("<think>"), False
        if new and self._opened_thought:
            new, self._opened_thought = self._opened_thought + new, ""
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason
            self._stopped_by = choice.stopped_by
        if self.evidence is not None:
            self.evidence.hear(wire.sampled_tokens(choice.logprobs))
        if new:
            self._parts.append(new)
            self._characters += len(new)
            if self._characters > self._most_characters:
                message = (
                    f"the engine at {self._request.endpoint.url} sent more than {self._most_characters} characters in "
                    f"one completion of at most {self._request.max_tokens} tokens"
                )
                raise EngineError(EngineReason.ENGINE_GARBAGE, message)
        return new

    def end(self) -> str:
        """Ends the reply, and returns the text that the engine has left out.

        Raises:
            EngineError: the reply is cut; or its end should be part of it, and the engine does not say what that was.
        """
        if self._finish_reason in _NO_END:
            how = f"with finish reason {self._finish_reason!r}" if self._finish_reason else "without a finish reason"
            message = f"the engine at {self._request.endpoint.url} ended the stream {how}"
            raise EngineError(EngineReason.ENGINE_BROKE_OFF, message)
        keeps_stop = self._request.plan.keeps_stop
        if keeps_stop and self._finish_reason == "stop" and self._stopped_by is msgspec.UNSET:
            wrong = f"the engine at {self._request.endpoint.url} does not say which stop string ended a step"
            right = "a tree needs an engine that sends stop_reason, as vLLM does, or matched_stop, as SGLang does"
            message = f"{wrong}, so every step would look like the end of a solution; {right}"
            raise EngineError(EngineReason.CALL_UNSUPPORTED, message)
        stop = self.stopped_at if keeps_stop else None
        is_cut = keeps_stop and (stop is not None or self._finish_reason == "length")  # the next step thinks on
        left_out = "</think>" if self._is_reasoning and not is_cut else ""
        if stop and not "".join(self._parts).endswith(stop):
            left_out += stop
        if left_out:
            self._parts.append(left_out)
        return left_out

    @property
    def stopped_at(self) -> str | None:
        """The stop string that ended it, where the engine says so; a number is the id of a token."""
        return self._stopped_by if isinstance(self._stopped_by, str) else None

    def completion(self) -> Completion:
        """The whole reply. Raises `EngineError` where it should be a reward and is none."""
        plan, evidence = self._request.plan, self.evidence
        return Completion(
            text="".join(self._parts),
            finish_reason=self._finish_reason,
            stopped_at=self.stopped_at,
            probability=None if evidence is None else evidence.probability,
            confidence=None if evidence is None else evidence.confidence,
            reward=_own_reward(evidence, self._request.endpoint.url) if plan.judge is Judge.OWN else None,
        )


def _own_reward(evidence: TokenEvidence | None, url: str) -> float:
    likeliest = (evidence.first if evidence is not None else None) or ()
    reward = probability_of_yes(likeliest)
    if reward is None:
        said = ", ".join(repr(text[:20]) for text, _ in likeliest[:3])
        wrong = f"neither yes nor no is among its likeliest tokens {said} …" if said else "it sent no log-probabilities"
        raise EngineError(EngineReason.REWARD_INVALID, f"the engine at {url} gives no reward: {wrong}")
    return reward


def _text(choice: wire.Choice, is_reasoning: bool) -> tuple[str, bool]:
    """New text of a choice, reasoning put between `<think>` tags, and whether reasoning is open after it."""
    delta = choice.delta
    if delta is None:
        return choice.text or "", False
    thought = delta.reasoning or delta.reasoning_content or ""
    content = delta.content or ""
    if thought:
        opened = "" if is_reasoning else "<think>"
        return (f"{opened}{thought}</think>{content}", False) if content else (f"{opened}{thought}", True)
    if content and is_reasoning:
        return f"</think>{content}", False
    return content, is_reasoning

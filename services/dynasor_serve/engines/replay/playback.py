"""What will a request be answered with? Joins the request to its recording and its calls.

`handlers` asks once per request, before anything is sent, so that every refusal comes as an error body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynasor_serve.engines.replay.branches import AlternativeChooser, branch_of_call_id
from dynasor_serve.engines.replay.chain_play import ChainPlay
from dynasor_serve.engines.replay.chain_text import ChainTexts
from dynasor_serve.engines.replay.chat_template import Prompt
from dynasor_serve.engines.replay.emission import Emission, plan_events
from dynasor_serve.engines.replay.engine import Call, Engine
from dynasor_serve.engines.replay.errors import BadRequest, UnknownModel, UnknownPrompt
from dynasor_serve.engines.replay.faults import Fault, FaultPlan, spoiled
from dynasor_serve.engines.replay.play import Answer, PathRewards, Play, Reply
from dynasor_serve.engines.replay.prefix_cache import approximate_tokens
from dynasor_serve.engines.replay.records import SamplesRecord
from dynasor_serve.engines.replay.reply import reply_text
from dynasor_serve.engines.replay.requests import GenerationRequest
from dynasor_serve.engines.replay.responses import Usage
from dynasor_serve.engines.replay.sample_play import SamplePlay
from dynasor_serve.engines.replay.trace_index import Chains, Recording, TraceIndex, label
from dynasor_serve.engines.replay.tree_play import TreePlay


@dataclass(frozen=True, slots=True)
class PlaybackShape:
    """How completions are rendered and cut.

    Attributes:
        max_model_len: Longest prompt plus completion, in tokens.
        stream_interval: Tokens per event.
        events_per_response: Events per completion instead, if given.
        characters_per_token: Length of synthesised text per recorded token.
        block_size: Tokens per block of the prefix cache.
    """

    max_model_len: int
    stream_interval: int
    events_per_response: int | None
    characters_per_token: float
    block_size: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion on its way: its call, its text, and the running token count at each of its events."""

    index: int
    call: Call
    emission: Emission
    events: Sequence[int]


@dataclass(frozen=True, slots=True)
class Performance:
    """All that answers one request."""

    model: str
    engine: Engine
    choices: Sequence[Choice]
    block_size: int
    fault: Fault | None

    def usage(self) -> Usage:
        """Return the tokens of all choices; each prompt is counted once. Cached tokens are known after admission."""
        of_prompts = {choice.call.prompt: choice.call for choice in reversed(self.choices)}.values()
        prompt_tokens = sum(call.prompt_tokens for call in of_prompts)
        cached = sum(call.cached_tokens for call in of_prompts)
        whole_blocks = sum(call.prompt_tokens - call.prompt_tokens % self.block_size for call in of_prompts)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=sum(choice.emission.tokens for choice in self.choices),
            cached_tokens=cached,
            created_cache_tokens=max(0, whole_blocks - cached),
        )


class Playback:
    """Finds the recorded answer of each request.

    Args:
        index: The recordings.
        engines: One per served model.
        shape: How completions are rendered and cut.
        faults: Which requests fail on purpose.
    """

    def __init__(
        self, *, index: TraceIndex, engines: Mapping[str, Engine], shape: PlaybackShape, faults: FaultPlan
    ) -> None:
        self._index = index
        self._engines = engines
        self._shape = shape
        self._faults = faults
        self._chooser = AlternativeChooser()
        self._chain_texts = ChainTexts(characters_per_token=shape.characters_per_token)
        self._plays: dict[int, Play] = {}  # id() of a recording -> its play

    def perform(self, request: GenerationRequest, request_id: str) -> Performance:
        """Return what answers a request.

        Args:
            request: What is asked for.
            request_id: The call id, whose branch chooses among alternatives; without one, the request's own `branch`,
                else they come in turn.

        Raises:
            UnknownModel: The model is not served.
            UnknownPrompt: No record fits the prompt, or it goes on behind words that were not recorded.
            BadRequest: The prompt or the token limit is longer than the model's context.
        """
        model = self.served(request.model)
        branch = branch_of_call_id(request_id)
        if branch is None:
            branch = request.branch
        choices: list[Choice] = []
        fault: Fault | None = None
        for prompt in request.prompts:
            play, reply, answers = self._answers(model, prompt, request, branch)
            prompt_tokens = _prompt_tokens(prompt, play, reply)
            limit = self._token_limit(request.max_tokens, prompt_tokens)
            for answer in answers:
                fault = self._faults.draw(request_id, answer.ask)
                emission = self._emission(request, answer, limit, fault)
                choices.append(self._choice(request, prompt, prompt_tokens, emission, index=len(choices)))
        return Performance(model, self._engines[model], choices, self._shape.block_size, fault)

    def rewards(self, model: str, prompt: Prompt) -> Sequence[float]:
        """Return the recorded rewards of the steps of a path, in [0, 1]; the last is that of the whole path.

        Args:
            model: A served model.
            prompt: The question, with the path as the assistant's turn.

        Raises:
            UnknownPrompt: No record fits the prompt, or the path was not recorded.
        """
        known: list[PathRewards] = []
        for recording in self._index.runs_of(model, prompt):
            play = self._play(recording)
            path = reply_text(prompt, label(recording), play)
            rewards = None if path is None else play.rewards(path)
            if rewards is not None:
                known.append(rewards)
        if not known:
            raise _unknown_continuation()
        return max(known, key=lambda rewards: rewards.characters).steps

    def served(self, model: str | None) -> str:
        """Return the model that is meant; none named means the only one served."""
        if model is None and len(self._engines) == 1:
            return next(iter(self._engines))
        if model is not None and model in self._engines:
            return model
        raise UnknownModel(
            f"The model `{model}` does not exist. Valid aliases: {', '.join(self._engines)}.", param="model"
        )

    def _token_limit(self, max_tokens: int | None, prompt_tokens: int) -> int:
        context = self._shape.max_model_len
        if prompt_tokens > context:
            raise BadRequest(
                f"This model's maximum context length is {context} tokens. However, your prompt contains at least "
                f"{prompt_tokens} input tokens, which exceeds this limit even without any output tokens. Please reduce "
                f"the length of the input prompt. (parameter=input_tokens, value={prompt_tokens})",
                param="input_tokens",
            )
        if max_tokens is not None and max_tokens > context:
            raise BadRequest(
                f"max_tokens={max_tokens} cannot be greater than max_model_len={context}. Please request fewer output "
                f"tokens. (parameter=max_tokens, value={max_tokens})",
                param="max_tokens",
            )
        room = context - prompt_tokens
        return room if max_tokens is None else min(room, max_tokens)

    def _answers(
        self, model: str, prompt: Prompt, request: GenerationRequest, branch: int | None
    ) -> tuple[Play, Reply, Sequence[Answer]]:
        """Return the answers to one prompt, one per choice, with the recording they come from and what it was told."""
        for recording in self._index.runs_of(model, prompt):
            play = self._play(recording)
            text = reply_text(prompt, label(recording), play)
            if text is None:
                continue
            reply = Reply(text, request.stop)
            first = self._chooser.first((id(play), play.turn(reply)), branch, request.n)
            numbers = range(first, first + request.n)
            answers = [answer for number in numbers if (answer := play.answer(reply, number)) is not None]
            if answers:
                return play, reply, answers
        raise _unknown_continuation()

    def _play(self, recording: Recording) -> Play:
        key = id(recording)
        if key not in self._plays:
            self._plays[key] = self._new_play(recording)
        return self._plays[key]

    def _new_play(self, recording: Recording) -> Play:
        if isinstance(recording, Chains):
            return ChainPlay(recording.records, texts=self._chain_texts)
        if isinstance(recording, SamplesRecord):
            return SamplePlay(recording, characters_per_token=self._shape.characters_per_token)
        return TreePlay(recording)

    def _emission(self, request: GenerationRequest, answer: Answer, limit: int, fault: Fault | None) -> Emission:
        emission = answer.emission.trimmed(max_tokens=limit, stop=request.stop, keep_stop=request.keep_stop)
        return spoiled(fault, emission, limit=limit, characters_per_token=self._shape.characters_per_token)

    def _choice(
        self,
        request: GenerationRequest,
        prompt: Prompt,
        prompt_tokens: int,
        emission: Emission,
        *,
        index: int,
    ) -> Choice:
        events = plan_events(
            emission.tokens,
            stream_interval=self._shape.stream_interval,
            events_per_response=self._shape.events_per_response,
        )
        call = Call(
            prompt=prompt.text,
            prompt_tokens=prompt_tokens,
            priority=request.priority,
            cache_salt=request.cache_salt,
        )
        return Choice(index, call, emission, events)


def _prompt_tokens(prompt: Prompt, play: Play, reply: Reply) -> int:
    """Return the recorded tokens of the prompt, with about those of what the assistant has said, else about all."""
    if play.prompt_tokens is None:
        return approximate_tokens(prompt.text)
    return play.prompt_tokens + (approximate_tokens(reply.text) if reply.text else 0)


def _unknown_continuation() -> UnknownPrompt:
    return UnknownPrompt(
        "The prompt goes on behind words that are not recorded; let it go on behind what this engine has answered, "
        "with nothing between the two.",
        param="prompt",
    )

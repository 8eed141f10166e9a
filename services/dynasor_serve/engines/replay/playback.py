"""What will a request be answered with? Joins the request to its records, samples and calls.

`handlers` asks once per request, before anything is sent, so that every refusal comes as an error body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynasor_serve.engines.replay.branches import SampleChooser, branch_of_call_id
from dynasor_serve.engines.replay.emission import Emission, plan_events, render, trim
from dynasor_serve.engines.replay.engine import Call, Engine
from dynasor_serve.engines.replay.errors import BadRequest, UnknownModel
from dynasor_serve.engines.replay.prefix_cache import approximate_tokens
from dynasor_serve.engines.replay.requests import GenerationRequest, Prompt
from dynasor_serve.engines.replay.responses import Usage
from dynasor_serve.engines.replay.trace_index import TraceIndex
from dynasor_serve.engines.replay.traces import SamplesRecord


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
        index: The records.
        engines: One per served model.
        shape: How completions are rendered and cut.
    """

    def __init__(self, *, index: TraceIndex, engines: Mapping[str, Engine], shape: PlaybackShape) -> None:
        self._index = index
        self._engines = engines
        self._shape = shape
        self._chooser = SampleChooser()

    def perform(self, request: GenerationRequest, request_id: str) -> Performance:
        """Return what answers a request.

        Args:
            request: What is asked for.
            request_id: The call id, whose branch chooses the sample; without one, the request's own `branch`, else
                the samples come in turn.

        Raises:
            UnknownModel: The model is not served.
            UnknownPrompt: No record fits the prompt.
            BadRequest: The prompt or the token limit is longer than the model's context.
        """
        model = self.served(request.model)
        branch = branch_of_call_id(request_id)
        if branch is None:
            branch = request.branch
        choices: list[Choice] = []
        for prompt in request.prompts:
            record = self._index.find(model, prompt.text, prompt.question)
            prompt_tokens = record.samples[0].in_tokens or approximate_tokens(prompt.text)
            limit = self._token_limit(request.max_tokens, prompt_tokens)
            first = self._chooser.first_choice(_key(record), branch, request.n)
            for number in range(first, first + request.n):
                emission = self._emission(request, record, number % len(record.samples), limit)
                choices.append(self._choice(request, prompt, prompt_tokens, emission, index=len(choices)))
        return Performance(model, self._engines[model], choices, self._shape.block_size)

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

    def _emission(self, request: GenerationRequest, record: SamplesRecord, sample: int, limit: int) -> Emission:
        whole = render(record, sample, characters_per_token=self._shape.characters_per_token)
        return trim(whole, max_tokens=limit, stop=request.stop, keep_stop=request.keep_stop)

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


def _key(record: SamplesRecord) -> str:
    return f"{record.model} {record.dataset}/{record.question_id} {record.run_id}"

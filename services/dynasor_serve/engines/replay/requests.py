"""What does a request ask for? Reads the bodies of the generation endpoints and of `/tokenize` and `/detokenize`.

As in vLLM, fields that are not known are let through, and so are sampling parameters: a recorded answer has its
own. What a recording cannot give (a prompt echoed, its log-probabilities) is refused rather than left out.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from dynasor_serve.engines.replay.branches import BRANCH_ARGUMENT
from dynasor_serve.engines.replay.chat_template import Prompt, Turn, parse, render
from dynasor_serve.engines.replay.errors import BadRequest, InvalidBody

_log = logging.getLogger(__name__)

#: vLLM's default of `--max-logprobs`.
_MAX_LOGPROBS: Final = 20

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Face(StrEnum):
    """Which of the two generation endpoints is spoken."""

    CHAT = "chat"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request for completions, the same for both endpoints.

    `logprobs` is how many log-probabilities each token comes with, its own included; None for none at all.
    """

    face: Face
    model: str | None
    prompts: tuple[Prompt, ...]
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    keep_stop: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    logprobs: int | None
    priority: int
    cache_salt: str
    request_id: str | None
    branch: int | None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class _ContentPart(msgspec.Struct):
    type: str = "text"
    text: str = ""


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | list[_ContentPart] | None = None

    @property
    def text(self) -> str:
        """Its content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Arguments(msgspec.Struct):
    branch: Annotated[int, msgspec.Meta(ge=0)] | None = msgspec.field(default=None, name=BRANCH_ARGUMENT)


class _Body(msgspec.Struct, kw_only=True):
    model: str | None = None
    n: _AtLeastOne | None = 1
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = False
    echo: bool | None = False
    priority: int = 0
    cache_salt: str | None = None
    request_id: str | None = None
    vllm_xargs: _Arguments | None = None


class _ChatBody(_Body, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_tokens: _AtLeastOne | None = None
    max_completion_tokens: _AtLeastOne | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class _CompletionBody(_Body, kw_only=True):
    prompt: str | list[str | int | list[int]]
    max_tokens: _AtLeastOne | None = 16  # vLLM's default
    logprobs: int | None = None


class _TokenizeBody(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = False


class _DetokenizeBody(msgspec.Struct):
    tokens: list[int]
    model: str | None = None


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text to cut into tokens."""

    model: str | None
    text: str
    return_token_strs: bool


def parse_chat(body: bytes) -> GenerationRequest:
    """Read the body of a chat completion.

    Raises:
        InvalidBody: It is not JSON, or a field has the wrong type.
        BadRequest: It asks for what a replay cannot do.
    """
    chat = decode(body, _ChatBody)
    if chat.top_logprobs and not chat.logprobs:
        raise BadRequest("when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
    prompt = chat_prompt(
        chat.messages,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
    )
    limits = [limit for limit in (chat.max_completion_tokens, chat.max_tokens) if limit is not None]
    logprobs = _count_of_logprobs(chat.top_logprobs or 0, "top_logprobs") if chat.logprobs else None
    return _request(Face.CHAT, chat, (prompt,), *limits[:1], logprobs=logprobs)


def parse_completion(body: bytes) -> GenerationRequest:
    """Read the body of a completion; raises as `parse_chat`."""
    completion = decode(body, _CompletionBody)
    texts = [completion.prompt] if isinstance(completion.prompt, str) else completion.prompt
    prompts = tuple(parse(text) for text in texts if isinstance(text, str))
    if not prompts or len(prompts) < len(texts):
        raise BadRequest(
            "the replay engine finds a trace by the prompt's text; give `prompt` as text, not as token ids",
            param="prompt",
        )
    logprobs = None if completion.logprobs is None else _count_of_logprobs(completion.logprobs, "logprobs")
    return _request(Face.COMPLETION, completion, prompts, completion.max_tokens, logprobs=logprobs)


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """Read the body of a tokenize request; raises as `parse_chat`."""
    request = decode(body, _TokenizeBody)
    if request.messages:
        prompt = chat_prompt(
            request.messages,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
        )
        return TokenizeRequest(request.model, prompt.text, bool(request.return_token_strs))
    if request.prompt is None:
        raise BadRequest("give `prompt` or `messages`", param="prompt")
    return TokenizeRequest(request.model, request.prompt, bool(request.return_token_strs))


def parse_detokenize(body: bytes) -> tuple[str | None, list[int]]:
    """Read the body of a detokenize request: the model, and the ids; raises `InvalidBody`."""
    request = decode(body, _DetokenizeBody)
    return request.model, request.tokens


def chat_prompt(messages: list[Message], *, add_generation_prompt: bool, continue_final_message: bool) -> Prompt:
    """Return a chat as one prompt.

    Raises:
        BadRequest: The assistant's turn cannot both be opened and be gone on with.
    """
    if continue_final_message and add_generation_prompt:
        raise BadRequest("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    return render(
        [Turn(message.role, message.text) for message in messages],
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def _request(
    face: Face, body: _Body, prompts: tuple[Prompt, ...], max_tokens: int | None = None, *, logprobs: int | None
) -> GenerationRequest:
    if body.prompt_logprobs is not None:
        raise BadRequest(
            "recorded traces hold no log-probabilities of prompts; leave `prompt_logprobs` out", param="prompt_logprobs"
        )
    if body.echo:
        raise BadRequest("the replay engine does not echo prompts; leave `echo` out", param="echo")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("Stream options can only be defined when `stream=True`.", param="stream_options")
    options = body.stream_options or _StreamOptions(include_usage=False)
    return GenerationRequest(
        face=face,
        model=body.model,
        prompts=prompts,
        n=body.n or 1,
        max_tokens=max_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        keep_stop=body.include_stop_str_in_output,
        stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        return_token_ids=bool(body.return_token_ids),
        logprobs=logprobs,
        priority=body.priority,
        cache_salt=body.cache_salt or "",
        request_id=body.request_id,
        branch=body.vllm_xargs.branch if body.vllm_xargs else None,
    )


def _count_of_logprobs(count: int, param: str) -> int:
    if count < 0:
        raise BadRequest(f"`{param}` must be a positive value; a replay has no vocabulary to list.", param=param)
    if count > _MAX_LOGPROBS:
        raise BadRequest(
            f"Requested sample logprobs of {count}, which is greater than max allowed: {_MAX_LOGPROBS}", param=param
        )
    return count


_BodyT = TypeVar("_BodyT", bound=msgspec.Struct)
_FIELD_IN_MESSAGE: Final = re.compile(r"required field `(\w+)`$|at `\$\.(\w+)")


def decode(body: bytes, struct: type[_BodyT]) -> _BodyT:
    """Read a body of one shape.

    Raises:
        InvalidBody: It is not JSON, or a field has the wrong type.
    """
    try:
        request = msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError as error:
        field = _FIELD_IN_MESSAGE.search(str(error))
        param = f"body.{field[1] or field[2]}" if field else "body"
        raise InvalidBody(f"1 validation error:\n  {error}", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBody(f"1 validation error:\n  the body is not JSON: {error}", param="body") from error
    if _log.isEnabledFor(logging.DEBUG):
        ignored = msgspec.json.decode(body, type=dict).keys() - set(struct.__struct_encode_fields__)
        _log.debug("fields without a meaning for a replay: %s", ", ".join(sorted(ignored)) or "none")
    return request

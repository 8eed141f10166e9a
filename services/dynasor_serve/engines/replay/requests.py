"""What does a request ask for? Reads the bodies of `/v1/chat/completions`, `/v1/completions` and `/tokenize`.

As in vLLM, fields that are not known are let through, and so are sampling parameters: a recorded answer has its
own. What a recording cannot give (log-probabilities, an echoed prompt) is refused rather than left out.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from dynasor_serve.engines.replay.branches import BRANCH_ARGUMENT
from dynasor_serve.engines.replay.errors import BadRequest, InvalidBody

_log = logging.getLogger(__name__)

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Face(StrEnum):
    """Which of the two generation endpoints is spoken."""

    CHAT = "chat"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the replay sees it.

    Attributes:
        text: All of it, as a model would read it: where markers and cached prefixes are looked for.
        question: What may equal a recorded prompt: the prompt of a completion, the last user message of a chat.
    """

    text: str
    question: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request for completions, the same for both endpoints."""

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


class _Message(msgspec.Struct):
    role: str
    content: str | list[_ContentPart] | None = None

    @property
    def text(self) -> str:
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
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: _AtLeastOne | None = None
    max_completion_tokens: _AtLeastOne | None = None
    logprobs: bool | None = False
    add_generation_prompt: bool = True


class _CompletionBody(_Body, kw_only=True):
    prompt: str | list[str | int | list[int]]
    max_tokens: _AtLeastOne | None = 16  # vLLM's default
    logprobs: int | None = None


class _TokenizeBody(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None


def parse_chat(body: bytes) -> GenerationRequest:
    """Read the body of a chat completion.

    Raises:
        InvalidBody: It is not JSON, or a field has the wrong type.
        BadRequest: It asks for what a replay cannot do.
    """
    chat = _decode(body, _ChatBody)
    if chat.logprobs:
        raise _no_logprobs("logprobs")
    limits = [limit for limit in (chat.max_completion_tokens, chat.max_tokens) if limit is not None]
    return _request(Face.CHAT, chat, (_chat_prompt(chat.messages, chat.add_generation_prompt),), *limits[:1])


def parse_completion(body: bytes) -> GenerationRequest:
    """Read the body of a completion; raises as `parse_chat`."""
    completion = _decode(body, _CompletionBody)
    if completion.logprobs is not None:
        raise _no_logprobs("logprobs")
    texts = [completion.prompt] if isinstance(completion.prompt, str) else completion.prompt
    prompts = tuple(Prompt(text, text) for text in texts if isinstance(text, str))
    if not prompts or len(prompts) < len(texts):
        raise BadRequest(
            "the replay engine finds a trace by the prompt's text; give `prompt` as text, not as token ids",
            param="prompt",
        )
    return _request(Face.COMPLETION, completion, prompts, completion.max_tokens)


def parse_tokenize(body: bytes) -> tuple[str | None, str]:
    """Read the body of a tokenize request: the model, and the text to count; raises as `parse_chat`."""
    request = _decode(body, _TokenizeBody)
    if request.messages is not None:
        return request.model, _chat_prompt(request.messages, add_generation_prompt=True).text
    if request.prompt is None:
        raise BadRequest("give `prompt` or `messages`", param="prompt")
    return request.model, request.prompt


def _request(face: Face, body: _Body, prompts: tuple[Prompt, ...], max_tokens: int | None = None) -> GenerationRequest:
    if body.prompt_logprobs is not None:
        raise _no_logprobs("prompt_logprobs")
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
        priority=body.priority,
        cache_salt=body.cache_salt or "",
        request_id=body.request_id,
        branch=body.vllm_xargs.branch if body.vllm_xargs else None,
    )


def _chat_prompt(messages: list[_Message], add_generation_prompt: bool) -> Prompt:
    """Render a chat in the manner of ChatML; only that equal chats render equally matters here."""
    turns = [f"<|im_start|>{message.role}\n{message.text}<|im_end|>\n" for message in messages]
    if add_generation_prompt:
        turns.append("<|im_start|>assistant\n")
    question = next((message.text for message in reversed(messages) if message.role == "user"), "")
    return Prompt("".join(turns), question)


def _no_logprobs(param: str) -> BadRequest:
    return BadRequest(f"recorded traces hold no log-probabilities; leave `{param}` out", param=param)


_BodyT = TypeVar("_BodyT", bound=msgspec.Struct)
_FIELD_IN_MESSAGE: Final = re.compile(r"required field `(\w+)`$|at `\$\.(\w+)")


def _decode(body: bytes, struct: type[_BodyT]) -> _BodyT:
    try:
        request = msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError as error:
        field = _FIELD_IN_MESSAGE.search(str(error))
        param = f"body.{field[1] or field[2]}" if field else "body"
        raise InvalidBody(f"1 validation error:\n  {error}", param=param) from error
    except msgspec.DecodeError as error:
        raise InvalidBody(f"1 validation error:\n  the body is not JSON: {error}", param="body") from error
    if _log.isEnabledFor(logging.DEBUG):
        ignored = msgspec.json.decode(body, type=dict).keys() - set(struct.__struct_encode_fields__)
        _log.debug("fields without a meaning for a replay: %s", ", ".join(sorted(ignored)) or "none")
    return request

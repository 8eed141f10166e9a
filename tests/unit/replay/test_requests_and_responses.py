"""Bodies in, bytes out: what is read of a request, and vLLM's fields in what is sent.

The field lists are those of vLLM 0.32's answers to the same requests.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.errors import BadRequest, InvalidBody, RequestRefused, UnknownPrompt
from dynasor_serve.engines.replay.requests import Face, TokenizeRequest, parse_chat, parse_completion, parse_tokenize
from dynasor_serve.engines.replay.responses import Head, ResponseWriter, Usage, error_body, models_body, writer_for

EMISSION = Emission('Say "hi".\n\u2028Ω', tokens=4, finish_reason="stop", stop_reason="x")
USAGE = Usage(prompt_tokens=42, completion_tokens=4, cached_tokens=32, created_cache_tokens=0)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def chat(**fields: Any) -> bytes:
    return body(messages=[{"role": "user", "content": "hi"}], **fields)


def test_a_chat_is_read() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "3 + 4?"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    request = parse_chat(
        body(
            model="m",
            messages=messages,
            max_tokens=5,
            max_completion_tokens=7,
            stop="END",
            stream=True,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
            priority=-3,
            vllm_xargs={"dynasor.branch": 6},
            temperature=0.8,
            seed=1,
            something_new={"a": [1]},
        )
    )

    (prompt,) = request.prompts
    assert prompt.questions == ("What is 3 + 4?",)
    assert prompt.reply_at == len(prompt.text)
    assert "Be brief." in prompt.text
    assert (request.max_tokens, request.stop, request.priority, request.branch) == (7, ("END",), -3, 6)
    assert request.include_usage
    assert request.continuous_usage


def test_completions_stop_after_16_tokens_unless_told_otherwise_as_in_vllm() -> None:
    assert parse_completion(body(prompt="hi")).max_tokens == 16
    assert parse_completion(body(prompt="hi", max_tokens=None)).max_tokens is None
    assert parse_chat(chat()).max_tokens is None


def test_usage_is_only_included_when_asked_for() -> None:
    assert not parse_chat(chat(stream=True)).include_usage
    assert not parse_chat(chat(stream=True, stream_options={"include_usage": True})).continuous_usage


@pytest.mark.parametrize(
    ("text", "param", "complaint"),
    [
        (b"{", "body", "not JSON"),
        (b"{}", "body.messages", "missing required field `messages`"),
        (body(messages=[]), "body.messages", "length >= 1"),
        (chat(max_tokens="many"), "body.max_tokens", "Expected `int"),
        (chat(n=0), "body.n", ">= 1"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_the_field(text: bytes, param: str, complaint: str) -> None:
    with pytest.raises(InvalidBody, match=complaint) as refused:
        parse_chat(text)

    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"continue_final_message": True}, None),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"echo": True}, "echo"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_a_recording_cannot_give_is_refused(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_chat(chat(**fields))

    assert refused.value.param == param


def test_token_ids_as_prompt_are_refused_and_several_texts_are_several_prompts() -> None:
    with pytest.raises(BadRequest, match="give `prompt` as text"):
        parse_completion(body(prompt=[1, 2, 3]))
    assert [prompt.text for prompt in parse_completion(body(prompt=["a", "b"])).prompts] == ["a", "b"]


def test_tokenize_reads_prompts_and_chats() -> None:
    assert parse_tokenize(body(model="m", prompt="hi")) == TokenizeRequest("m", "hi", return_token_strs=False)
    assert parse_tokenize(chat()).text == parse_chat(chat()).prompts[0].text
    with pytest.raises(BadRequest):
        parse_tokenize(b"{}")


def writer(face: Face, *, continuous_usage: bool = True, return_token_ids: bool = False) -> ResponseWriter:
    head = Head(
        request_id='p/7/"1"',
        model="m",
        created=1,
        continuous_usage=continuous_usage,
        return_token_ids=return_token_ids,
    )
    return writer_for(face, head)


def event_of(chunk: bytes) -> dict[str, Any]:
    assert chunk.startswith(b"data: ")
    assert chunk.endswith(b"\n\n")
    event: dict[str, Any] = json.loads(chunk[len(b"data: ") :])
    return event


def test_a_chat_stream_has_the_fields_of_vllm() -> None:
    chat_writer = writer(Face.CHAT)

    opening = event_of(chat_writer.opening(0, 42))
    assert opening == {
        "id": 'chatcmpl-p/7/"1"',
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
        "usage": {
            "prompt_tokens": 42,
            "total_tokens": 42,
            "completion_tokens": 0,
            "completion_tokens_details": None,
        },
        "prompt_token_ids": None,
        "prompt_text": None,
    }
    middle = event_of(chat_writer.event(0, EMISSION, 0, 2, 42, is_last=False))
    assert middle["choices"][0].keys() == {"index", "delta", "logprobs", "finish_reason", "token_ids"}
    last = event_of(chat_writer.event(0, EMISSION, 2, 4, 42, is_last=True))
    assert last["choices"][0].keys() == middle["choices"][0].keys() | {"stop_reason"}
    assert (last["choices"][0]["finish_reason"], last["choices"][0]["stop_reason"]) == ("stop", "x")
    assert last["usage"]["completion_tokens"] == 4
    texts = [event["choices"][0]["delta"]["content"] for event in (middle, last)]
    assert "".join(texts) == EMISSION.text
    assert event_of(chat_writer.usage_event(USAGE)) == {
        "id": 'chatcmpl-p/7/"1"',
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": {
            "prompt_tokens": 42,
            "total_tokens": 46,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 32, "created_cache_tokens": 0},
        },
        "system_fingerprint": "dynasor-replay",
    }


def test_a_completion_stream_has_the_fields_of_vllm() -> None:
    completion_writer = writer(Face.COMPLETION)

    assert completion_writer.opening(0, 42) == b""
    middle = event_of(completion_writer.event(0, EMISSION, 0, 2, 42, is_last=False))
    fields = {"index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids"}
    assert middle["choices"][0].keys() == fields
    assert middle["usage"] == {"prompt_tokens": 42, "total_tokens": 44, "completion_tokens": 2}
    usage = event_of(completion_writer.usage_event(USAGE))["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 32}


def test_without_continuous_usage_events_carry_none() -> None:
    for face in Face:
        quiet = writer(face, continuous_usage=False)
        assert "usage" not in event_of(quiet.event(0, EMISSION, 0, 2, 42, is_last=False))
    assert "usage" not in event_of(writer(Face.CHAT, continuous_usage=False).opening(0, 42))


def test_whole_bodies_have_the_fields_of_vllm() -> None:
    common = {"id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"}
    common |= {"kv_transfer_params", "ec_transfer_params", "metrics"}
    usage_fields = {"prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details"}
    usage_fields |= {"completion_tokens_details"}

    chat_body = json.loads(writer(Face.CHAT).body([EMISSION], USAGE))
    assert chat_body.keys() == common | {"prompt_logprobs", "prompt_token_ids", "prompt_text"}
    assert chat_body["usage"].keys() == usage_fields
    (choice,) = chat_body["choices"]
    fields = {"index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"}
    assert choice.keys() == fields
    message_fields = {"role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"}
    assert choice["message"].keys() == message_fields

    completion_body = json.loads(writer(Face.COMPLETION).body([EMISSION, EMISSION], USAGE))
    assert completion_body.keys() == common
    assert [choice["index"] for choice in completion_body["choices"]] == [0, 1]
    fields = fields - {"message"} | {"text", "prompt_logprobs", "prompt_token_ids"}
    assert completion_body["choices"][0].keys() == fields
    details = {"cached_tokens": 32, "created_cache_tokens": None, "multimodal_tokens": None}
    assert completion_body["usage"]["prompt_tokens_details"] == details


def test_token_ids_are_stand_ins_of_the_right_number() -> None:
    numbered = writer(Face.CHAT, return_token_ids=True)

    assert len(event_of(numbered.opening(0, 42))["prompt_token_ids"]) == 42
    first = event_of(numbered.event(0, EMISSION, 0, 3, 42, is_last=False))["choices"][0]["token_ids"]
    last = event_of(numbered.event(0, EMISSION, 3, 4, 42, is_last=True))["choices"][0]["token_ids"]
    assert len(first + last) == EMISSION.tokens


@pytest.mark.parametrize(("refusal", "code"), [(UnknownPrompt("no", param="prompt"), 404), (InvalidBody("no"), 400)])
def test_errors_have_the_shape_of_vllm(refusal: RequestRefused, code: int) -> None:
    error = json.loads(error_body(refusal))["error"]

    assert error == {"message": "no", "type": refusal.type, "param": refusal.param, "code": code}


def test_models_are_listed_with_their_context() -> None:
    listed = json.loads(models_body(["a", "b"], created=1, max_model_len=2048))

    assert [(card["id"], card["max_model_len"]) for card in listed["data"]] == [("a", 2048), ("b", 2048)]

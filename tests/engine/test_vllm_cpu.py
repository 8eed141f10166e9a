"""What Dynasor relies on in vLLM, asked of a real one: answers, streams, usage, log-probabilities, aborts, errors.

The replay engine promises the same shapes; where vLLM changes, these tests say so first. No request carries a `seed`:
on a CPU it ends the engine as soon as a prompt is prefilled in two parts.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from dynasor_serve.local.vllm_engine import EngineError, ManagedVllm, VllmOptions

# Start-up has limits of its own; these are for the tests themselves.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(300, func_only=True)]

CONTEXT_TOKENS = 2048
BLOCK_TOKENS = 32
FEW_SHOT = "Question: What is the capital of Italy?\nAnswer: Rome\n\nQuestion: What is the capital of France?\nAnswer:"
RUNNING_USAGE = {"include_usage": True, "continuous_usage_stats": True}


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    return {"model": "smollm2-135m", "messages": messages, "max_tokens": 8, "temperature": 0.8, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "smollm2-135m", "prompt": FEW_SHOT, "max_tokens": 8, "temperature": 0.8, **fields}


async def post(http: aiohttp.ClientSession, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    async with http.post(path, json=body) as response:
        reply: dict[str, Any] = await response.json()
        assert response.status == status, reply
        return reply


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of each server-sent event, `[DONE]` included."""
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            assert text.startswith("data: "), text
            yield text.removeprefix("data: ")


async def stream(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Every event of a stream that ends as it should."""
    async with http.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        received = [event async for event in events(response)]
    assert received[-1] == "[DONE]"
    return [json.loads(event) for event in received[:-1]]


async def metric(http: aiohttp.ClientSession, name: str) -> float:
    async with http.get("/metrics") as response:
        text = await response.text()
    found = re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"no {name} among the metrics"
    return float(found.group(1))


async def until_running(http: aiohttp.ClientSession, requests: int) -> None:
    """Waits until the engine runs so many requests."""
    running = -1.0
    for _ in range(300):
        running = await metric(http, "vllm:num_requests_running")
        if running == requests:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"the engine runs {running:.0f} requests, and {requests} are expected")


async def test_the_model_is_listed_with_its_context_window(http: aiohttp.ClientSession) -> None:
    async with http.get("/health") as response:
        assert (response.status, await response.text()) == (200, "")
    async with http.get("/v1/models") as response:
        listed = await response.json()
    assert [(entry["id"], entry["max_model_len"]) for entry in listed["data"]] == [("smollm2-135m", CONTEXT_TOKENS)]


async def test_a_completion_answers_and_counts_its_tokens(http: aiohttp.ClientSession) -> None:
    reply = await post(http, "/v1/completions", completion(temperature=0, stop=["\n"]))
    assert reply["choices"][0]["text"] == " Paris"
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["choices"][0]["stop_reason"] == "\n"
    # The token of the stop string is generated, and counted, and not part of the text.
    assert reply["usage"]["completion_tokens"] == 2
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + 2


async def test_a_chat_answers_as_the_assistant(http: aiohttp.ClientSession) -> None:
    reply = await post(http, "/v1/chat/completions", chat(max_tokens=4))
    choice = reply["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert reply["usage"]["completion_tokens"] <= 4


async def test_a_chat_stream_carries_the_usage_so_far_on_every_event(http: aiohttp.ClientSession) -> None:
    received = await stream(http, "/v1/chat/completions", chat(stream_options=RUNNING_USAGE, ignore_eos=True))
    *chunks, last = received
    counted = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counted[0] == 0, "the first event only opens the assistant's turn"
    assert counted == sorted(counted)
    assert counted[-1] == 8
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0


async def test_a_completion_stream_carries_the_usage_so_far_on_every_event(http: aiohttp.ClientSession) -> None:
    received = await stream(http, "/v1/completions", completion(stream_options=RUNNING_USAGE, ignore_eos=True))
    *chunks, last = received
    counted = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counted == sorted(counted)
    assert counted[0] >= 1
    assert counted[-1] == 8
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 8)


async def test_log_probabilities_come_with_the_tokens(http: aiohttp.ClientSession) -> None:
    reply = await post(http, "/v1/chat/completions", chat(logprobs=True, top_logprobs=2, max_tokens=3))
    tokens = reply["choices"][0]["logprobs"]["content"]
    assert len(tokens) == reply["usage"]["completion_tokens"]
    for token in tokens:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
    reply = await post(http, "/v1/completions", completion(logprobs=0, max_tokens=3))
    assert len(reply["choices"][0]["logprobs"]["token_logprobs"]) == reply["usage"]["completion_tokens"]


async def test_token_ids_come_back_on_request(http: aiohttp.ClientSession) -> None:
    body = completion(return_token_ids=True, max_tokens=5, ignore_eos=True)
    choice = (await post(http, "/v1/completions", body))["choices"][0]
    counted = await post(http, "/tokenize", {"model": "smollm2-135m", "prompt": FEW_SHOT})
    assert choice["prompt_token_ids"] == counted["tokens"]
    assert len(choice["token_ids"]) == 5
    # A prompt may be given as tokens: a chain goes on exactly where it stood.
    again = completion(prompt=choice["prompt_token_ids"] + choice["token_ids"], max_tokens=1)
    reply = await post(http, "/v1/completions", again)
    assert reply["usage"]["prompt_tokens"] == counted["count"] + 5


async def test_a_half_finished_turn_is_continued(http: aiohttp.ClientSession) -> None:
    messages = [{"role": "user", "content": "Count to ten."}, {"role": "assistant", "content": "1, 2, 3,"}]
    body = chat(
        messages=messages, add_generation_prompt=False, continue_final_message=True, temperature=0, max_tokens=2
    )
    assert "4" in (await post(http, "/v1/chat/completions", body))["choices"][0]["message"]["content"]


async def test_a_priority_is_accepted(http: aiohttp.ClientSession) -> None:
    replies = await asyncio.gather(
        *(post(http, "/v1/completions", completion(priority=priority, max_tokens=2)) for priority in (-5, 0, 7))
    )
    assert all(reply["usage"]["completion_tokens"] for reply in replies)


async def test_the_request_id_of_the_caller_is_kept(http: aiohttp.ClientSession) -> None:
    headers = {"X-Request-Id": "program-1/branch-2/attempt-3"}
    async with http.post("/v1/completions", json=completion(max_tokens=1), headers=headers) as response:
        assert response.headers["X-Request-Id"] == "program-1/branch-2/attempt-3"
        assert (await response.json())["id"] == "cmpl-program-1/branch-2/attempt-3"
    async with http.post("/v1/chat/completions", json=chat(max_tokens=1), headers=headers) as response:
        assert (await response.json())["id"] == "chatcmpl-program-1/branch-2/attempt-3"


async def test_usage_tells_what_the_prefix_cache_saved(http: aiohttp.ClientSession) -> None:
    body = completion(prompt="Seven green bottles hang on the wall. " * 12, max_tokens=1)
    await post(http, "/v1/completions", body)
    usage = (await post(http, "/v1/completions", body))["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached >= BLOCK_TOKENS
    assert cached % BLOCK_TOKENS == 0
    assert cached < usage["prompt_tokens"]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_dropped_connection_ends_the_request(http: aiohttp.ClientSession, is_stream: bool) -> None:
    asked_tokens = 1800
    before = await metric(http, "vllm:generation_tokens_total")
    body = completion(max_tokens=asked_tokens, ignore_eos=True, stream=is_stream)

    async def read() -> None:
        async with http.post("/v1/completions", json=body) as response:
            await response.read()

    reader = asyncio.create_task(read())
    await until_running(http, 1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await until_running(http, 0)
    generated = await metric(http, "vllm:generation_tokens_total") - before
    assert generated < asked_tokens, "the request went to its end"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", completion(prompt="word " * 3000)),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": "word " * 3000}])),
    ],
)
async def test_a_prompt_over_the_context_is_refused(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> None:
    message = (
        "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
        "(parameter=input_tokens, value=2049)"
    )
    assert await post(http, path, body, status=400) == {
        "error": {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    }


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", completion()), ("/v1/chat/completions", chat())])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_unknown_model_is_not_found(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], is_stream: bool
) -> None:
    assert await post(http, path, {**body, "model": "nobody", "stream": is_stream}, status=404) == {
        "error": {
            "message": "The model `nobody` does not exist. Valid aliases: smollm2-135m.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }


async def test_max_tokens_beyond_the_context_are_cut_and_not_refused(http: aiohttp.ClientSession) -> None:
    body = completion(prompt="word " * 2020, max_tokens=100, ignore_eos=True)
    reply = await post(http, "/v1/completions", body)
    assert reply["usage"]["total_tokens"] == CONTEXT_TOKENS
    assert reply["choices"][0]["finish_reason"] == "length"


async def test_an_engine_that_dies_in_its_start_says_why(vllm: ManagedVllm) -> None:
    second = ManagedVllm(VllmOptions(extra_args=("--no-such-flag",)))
    with pytest.raises(EngineError, match="no-such-flag"):
        await second.start()
    assert second.pid is None

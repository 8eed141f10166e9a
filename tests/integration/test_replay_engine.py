"""The replay engine over HTTP: a real process, real connections."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from fakes.replay_process import MODEL, SYNTHETIC_VOTES, ReplayProcess, running_replay

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
FAST = ("--ttft-ms", "0", "--time-per-output-token-ms", "0")
SLOW = ("--ttft-ms", "10", "--time-per-output-token-ms", "50", "--stream-interval", "1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replay() -> AsyncIterator[ReplayProcess]:
    """One engine for all tests that need no flags of their own."""
    async with running_replay(*FAST) as running:
        yield running


def asking(question: str, **fields: Any) -> dict[str, Any]:
    content = f"Think, then answer. [[trace:synthetic/{question}]]"
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def streaming(question: str, **fields: Any) -> dict[str, Any]:
    options = {"include_usage": True, "continuous_usage_stats": True}
    return asking(question, stream=True, stream_options=options, **fields)


async def ask(
    replay: ReplayProcess, body: dict[str, Any], call_id: str | None = None, path: str = CHAT
) -> dict[str, Any]:
    headers = {"X-Request-Id": call_id} if call_id else {}
    async with replay.http.post(path, json=body, headers=headers) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def read_events(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Return the JSON events of a stream, which must close with [DONE]."""
    raw = (await response.read()).decode()
    datas = [block.removeprefix("data: ") for block in raw.split("\n\n") if block]
    assert datas[-1] == "[DONE]"
    return [json.loads(data) for data in datas[:-1]]


def recorded(question: str) -> dict[str, Any]:
    records = (json.loads(line) for line in SYNTHETIC_VOTES.read_text().splitlines())
    return next(record for record in records if record["question_id"] == question)


def final_answer(text: str) -> str:
    return text.rpartition("\\boxed{")[2].rstrip(".").removesuffix("}")


async def until(condition: Any, *, within_seconds: float) -> float:
    """Wait until an awaited condition holds; returns how long it took."""
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < within_seconds, f"did not happen within {within_seconds} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


# --- answers


async def test_every_branch_gets_its_recorded_answer_and_tokens(replay: ReplayProcess) -> None:
    record = recorded("q20")

    answers = [await ask(replay, asking("q20"), f"program/{branch}/0") for branch in range(16)]

    for answer, sample in zip(answers, record["samples"], strict=True):
        text = answer["choices"][0]["message"]["content"]
        assert answer["usage"]["completion_tokens"] == sample["tokens"]
        assert answer["choices"][0]["finish_reason"] == ("stop" if sample["finished"] else "length")
        if sample["answer"] is None:
            assert "boxed" not in text
        else:
            assert final_answer(text) == (record["gold"] if sample["answer"] == "=gold" else sample["answer"])


async def test_a_retry_of_a_branch_is_answered_equally_and_branches_beyond_the_record_go_round(
    replay: ReplayProcess,
) -> None:
    call_ids = ["03-01HV/7/0", "03-01HV/7/1.2", "another/7/0", "03-01HV/23/0", "03-01HV/8/0"]

    texts = [(await ask(replay, asking("q35"), call_id))["choices"][0]["message"]["content"] for call_id in call_ids]

    assert texts[0] == texts[1] == texts[2] == texts[3]
    assert texts[0] != texts[4]


async def test_without_a_call_id_the_branch_comes_from_the_body_or_the_samples_take_turns(
    replay: ReplayProcess,
) -> None:
    record = recorded("q30")
    tokens = [sample["tokens"] for sample in record["samples"]]

    by_body = await ask(replay, asking("q30", vllm_xargs={"dynasor.branch": 11}))
    in_turn = [await ask(replay, asking("q30")) for _ in range(3)]
    several = await ask(replay, asking("q30", n=4), "program/1/0")

    assert by_body["usage"]["completion_tokens"] == tokens[11]
    assert [answer["usage"]["completion_tokens"] for answer in in_turn] == tokens[:3]
    assert several["usage"]["completion_tokens"] == sum(tokens[4:8])
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_a_stream_says_what_the_whole_answer_says_and_counts_as_it_goes(path: str) -> None:
    marker = "[[trace:synthetic/q30]]"
    chat = path == CHAT
    prompt = {"messages": [{"role": "user", "content": marker}]} if chat else {"prompt": marker, "max_tokens": 500}
    body = {"model": MODEL, **prompt}
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with running_replay(*FAST, "--events-per-response", "7") as replay:
        whole = await ask(replay, body, "p/3/0", path)
        headers = {"X-Request-Id": "p/3/0"}
        streamed = body | {"stream": True, "stream_options": options}
        async with replay.http.post(path, json=streamed, headers=headers) as response:
            assert response.headers["X-Request-Id"] == "p/3/0"
            assert response.content_type == "text/event-stream"
            *events, last = await read_events(response)

    choices = [event["choices"][0] for event in events]
    texts = [choice["delta"]["content"] if chat else choice["text"] for choice in choices]
    running = [event["usage"]["completion_tokens"] for event in events]
    assert whole["id"] == events[0]["id"] == f"{'chatcmpl' if chat else 'cmpl'}-p/3/0"
    assert "".join(texts) == (whole["choices"][0]["message"]["content"] if chat else whole["choices"][0]["text"])
    assert len(texts) == (8 if chat else 7), "the role, where there is one, and seven events"
    assert running == sorted(running)
    assert running[-1] == last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert last["choices"] == []


async def test_several_choices_share_one_stream(replay: ReplayProcess) -> None:
    async with replay.http.post(CHAT, json=streaming("q30", n=3), headers={"X-Request-Id": "p/0/0"}) as response:
        *events, last = await read_events(response)

    texts = ["", "", ""]
    for event in events:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["delta"]["content"]
    samples = recorded("q30")["samples"][:3]
    assert last["usage"]["completion_tokens"] == sum(sample["tokens"] for sample in samples)
    assert all("boxed" in text for text, sample in zip(texts, samples, strict=True) if sample["answer"])


async def test_limits_and_stop_strings_end_an_answer_early(replay: ReplayProcess) -> None:
    cut = await ask(replay, asking("q30", max_tokens=10), "p/0/0")
    stopped = await ask(replay, asking("q30", stop=[". "]), "p/0/0")

    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 10)
    choice = stopped["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", ". ")
    assert ". " not in choice["message"]["content"]
    assert stopped["usage"]["completion_tokens"] < recorded("q30")["samples"][0]["tokens"]


async def test_a_recorded_prompt_needs_no_marker(replay: ReplayProcess) -> None:
    messages = [{"role": "user", "content": recorded("q04")["prompt"]}]

    answer = await ask(replay, {"model": MODEL, "messages": messages}, "p/0/0")

    assert final_answer(answer["choices"][0]["message"]["content"]) == "31"


async def test_a_repeated_prompt_is_found_in_the_prefix_cache(replay: ReplayProcess) -> None:
    body = asking("q00")
    body["messages"].insert(0, {"role": "system", "content": "You are a careful mathematician. " * 20})

    hits_before = await replay.metric("vllm:prefix_cache_hits_total", model_name=MODEL)
    first, second = await ask(replay, body), await ask(replay, body)

    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    prompt_tokens = second["usage"]["prompt_tokens"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert prompt_tokens - 32 <= cached < prompt_tokens
    assert await replay.metric("vllm:prefix_cache_hits_total", model_name=MODEL) - hits_before == cached


# --- refusals


@pytest.mark.parametrize(
    ("body", "status", "kind", "complaint"),
    [
        (asking("q99"), 404, "NotFoundError", "[[trace:synthetic/q00]]"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}, 404, "NotFoundError", "[[trace:DATASET/"),
        (asking("q00") | {"model": "nope"}, 404, "NotFoundError", "The model `nope` does not exist. Valid aliases:"),
        ({"model": MODEL}, 400, "Bad Request", "messages"),
        (asking("q00", prompt_logprobs=1), 400, "BadRequestError", "no log-probabilities of prompts"),
        (asking("q00", max_tokens=3000), 400, "BadRequestError", "max_model_len=2048"),
        (asking("q00" + "]] " + "word " * 5000), 400, "BadRequestError", "maximum context length is 2048"),
    ],
)
async def test_refusals_are_typed_and_say_what_would_be_right(
    body: dict[str, Any], status: int, kind: str, complaint: str
) -> None:
    async with running_replay("--max-model-len", "2048") as replay:
        for stream in (False, True):
            async with replay.http.post(CHAT, json=body | {"stream": stream}) as response:
                error = (await response.json())["error"]
                assert response.status == status
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["type"], error["code"]) == (kind, status)
            assert complaint in error["message"]


async def test_bytes_that_are_not_json_are_refused(replay: ReplayProcess) -> None:
    async with replay.http.post(CHAT, data=b"\xff{") as response:
        assert response.status == 400
        assert "not JSON" in (await response.json())["error"]["message"]


async def test_a_trace_that_does_not_fit_ends_the_process_with_a_message() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dynasor_serve.engines.replay", "--port", "0", "--traces", "/nowhere.jsonl"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), timeout=30)

    assert process.returncode == 2
    assert b"/nowhere.jsonl: no such file" in stderr


# --- the other paths


async def test_the_server_describes_itself(replay: ReplayProcess) -> None:
    async with replay.http.get("/v1/models") as response:
        (model,) = (await response.json())["data"]
    assert (model["id"], model["max_model_len"]) == (MODEL, 262_144)
    for path in ("/health", "/ping", "/version", "/load", "/metrics"):
        async with replay.http.get(path) as response:
            assert response.status == 200, path
    async with replay.http.post("/tokenize", json={"model": MODEL, "prompt": "0123456789"}) as response:
        counted = await response.json()
    assert (counted["count"], len(counted["tokens"]), counted["max_model_len"]) == (3, 3, 262_144)
    async with replay.http.get("/v2/nothing") as response:
        assert (response.status, await response.json()) == (404, {"detail": "Not Found"})


# --- aborts, order, drain


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot_at_once_and_only_its_tokens_are_counted(stream: bool) -> None:
    body = streaming("q39") if stream else asking("q39")
    async with running_replay(*SLOW) as replay:

        async def one_runs() -> bool:
            return await replay.metric("vllm:num_requests_running") == 1

        async def none_runs() -> bool:
            return await replay.metric("vllm:num_requests_running") == 0

        seconds_to_leave = []
        for _ in range(3):
            before = await replay.metric("vllm:generation_tokens_total")
            started = time.monotonic()
            call = asyncio.create_task(replay.http.post(CHAT, json=body).__aenter__())
            await until(one_runs, within_seconds=5)
            await asyncio.sleep(0.5)
            if stream:  # its headers came at once
                (await call).close()
            else:
                call.cancel()
            seconds_to_leave.append(await until(none_runs, within_seconds=5))

            tokens = await replay.metric("vllm:generation_tokens_total") - before
            assert 8 <= tokens <= (time.monotonic() - started) / 0.05 + 1, "a token every 50 ms for 0.5 s or more"

        assert min(seconds_to_leave) <= 0.25
        for reason in ("stop", "length", "abort"):
            assert await replay.metric("vllm:request_success_total", finished_reason=reason) == 0


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    async with running_replay(*SLOW, "--max-num-seqs", "1") as replay:

        async def waiting() -> float:
            return await replay.metric("vllm:num_requests_waiting")

        async def one_waits() -> bool:
            return await waiting() == 1

        async def none_waits() -> bool:
            return await waiting() == 0

        running = asyncio.create_task(ask(replay, asking("q39", max_tokens=40)))
        queued = asyncio.create_task(ask(replay, asking("q39", max_tokens=40)))
        await until(one_waits, within_seconds=5)
        queued.cancel()
        await until(none_waits, within_seconds=5)
        await running

        assert await replay.metric("vllm:request_success_total", finished_reason="length") == 1


async def test_with_one_slot_the_smaller_priority_goes_first_and_none_overtakes_a_running_call() -> None:
    async with running_replay(*SLOW, "--max-num-seqs", "1") as replay:
        finished: list[int] = []

        async def call(priority: int) -> None:
            await ask(replay, asking("q39", max_tokens=10, priority=priority))
            finished.append(priority)

        tasks = []
        for number, priority in enumerate([9, 5, 7, -1]):

            async def arrived(number: int = number) -> bool:
                async with replay.http.get("/load") as response:
                    load: int = (await response.json())["server_load"]
                    return load == number + 1

            tasks.append(asyncio.create_task(call(priority)))
            await until(arrived, within_seconds=5)
        await asyncio.gather(*tasks)

    assert finished == [9, -1, 5, 7]


async def test_sigterm_finishes_what_runs_refuses_what_comes_and_exits_with_0() -> None:
    async with running_replay(*SLOW, "--shutdown-timeout", "20") as replay:
        async with replay.http.post(CHAT, json=streaming("q39", max_tokens=100)) as response:
            await response.content.readline()
            replay.process.send_signal(signal.SIGTERM)

            async def refuses() -> bool:
                # One token: a request that comes before the signal is heard must not outlast the drain.
                async with replay.http.post(CHAT, json=asking("q00", max_tokens=1)) as refused:
                    return refused.status == 500

            await until(refuses, within_seconds=5)
            async with replay.http.get("/health") as health:
                assert health.status == 200, "vLLM stays healthy while it drains"
            raw = (await response.read()).decode()

        assert raw.endswith("data: [DONE]\n\n")
        assert '"completion_tokens":100' in raw
        assert await asyncio.wait_for(replay.process.wait(), timeout=5) == 0


async def test_sigterm_cuts_what_outlasts_the_shutdown_timeout_and_still_exits_with_0() -> None:
    async with running_replay(*SLOW, "--shutdown-timeout", "0.3") as replay:
        async with replay.http.post(CHAT, json=streaming("q39")) as response:
            await response.content.readline()
            replay.process.send_signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

        assert await asyncio.wait_for(replay.process.wait(), timeout=5) == 0


# --- faults


async def test_an_injected_error_is_an_error_body() -> None:
    async with (
        running_replay(*FAST, "--fault", "error-500:1") as replay,
        replay.http.post(CHAT, json=asking("q00")) as response,
    ):
        assert response.status == 500
        assert (await response.json())["error"]["type"] == "InternalServerError"


async def test_garbage_is_not_what_the_content_type_says() -> None:
    async with running_replay(*FAST, "--fault", "garbage:1") as replay:
        async with replay.http.post(CHAT, json=asking("q00")) as response:
            assert response.content_type == "application/json"
            with pytest.raises(ValueError):  # noqa: PT011 - which error depends on the parser
                await response.json()
        async with replay.http.post(CHAT, json=streaming("q00")) as response:
            assert response.status == 200
            assert b"[DONE]" not in await response.read()


async def test_a_hang_says_nothing_and_holds_its_slot_until_the_client_gives_up() -> None:
    async with running_replay(*FAST, "--fault", "hang:1") as replay:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ask(replay, asking("q00")), timeout=0.5)

        async def none_runs() -> bool:
            return await replay.metric("vllm:num_requests_running") == 0

        await until(none_runs, within_seconds=5)


async def test_a_cut_stream_ends_half_way_without_a_closing_event() -> None:
    async with running_replay(*FAST, "--events-per-response", "8", "--fault", "cut-stream:1") as replay:
        async with replay.http.post(CHAT, json=streaming("q39")) as response:
            received = [await response.content.readuntil(b"\n\n") for _ in range(5)]
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert all(event.startswith(b"data: {") for event in received), "the role and half of the events"

        with pytest.raises(aiohttp.ClientError):
            await ask(replay, asking("q39"))


async def test_a_share_of_faults_hits_the_same_calls_again() -> None:
    async with running_replay(*FAST, "--fault", "error-500:0.5") as replay:

        async def statuses() -> list[int]:
            found = []
            for number in range(40):
                headers = {"X-Request-Id": f"program/{number}/0"}
                async with replay.http.post(CHAT, json=asking("q00"), headers=headers) as response:
                    found.append(response.status)
            return found

        first = await statuses()
        assert first == await statuses()
        assert 8 <= first.count(500) <= 32

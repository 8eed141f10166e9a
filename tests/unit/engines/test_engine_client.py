"""The engine client against a server that says exactly what a test tells it to, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest

from dynasor_serve.engines.client import CallRequest, Completion, Endpoint, EngineCall, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind, probe
from dynasor_serve.programs.calls import SAMPLE, CallPlan
from dynasor_serve.programs.query import Branch, Message, Query, SamplingParameters

STALL_SECONDS = 0.3
CHAT = Query(model="model", rule="even", messages=(Message("user", "What is it?"),))

ONE_STEP = CallPlan(stop=("\n\n",), keeps_stop=True)

HANG = "hang"
CUT = "cut"  # the connection, without the end of the body
Step = bytes | str


@dataclass(slots=True)
class Seen:
    """A request as the server saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class ScriptedEngine:
    """Answers each request with the next script; the last one repeats.

    Attributes:
        requests: what was asked.
        hung_up: calls whose client closed the connection before the script was over.
    """

    scripts: Sequence[Sequence[Step]]
    url: str = ""
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await _read_head(reader):
                await self._answer(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        length = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(length)) if length else {}
        self.requests.append(Seen(first.split()[1], headers, body))
        script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
        for step in script:
            if step == CUT:
                writer.transport.abort()
                raise ConnectionResetError
            if step == HANG:
                if not await reader.read(1):
                    raise ConnectionResetError
            else:
                assert isinstance(step, bytes)
                writer.write(step)
                await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def engine(*scripts: Sequence[Step]) -> AsyncIterator[ScriptedEngine]:
    scripted = ScriptedEngine(scripts)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()


@asynccontextmanager
async def client(**timeouts: float) -> AsyncIterator[EngineClient]:
    opened = EngineClient(EngineTimeouts(**{"connect": 1.0, "stall": STALL_SECONDS, **timeouts}))
    try:
        yield opened
    finally:
        await opened.close()


# --- scripts


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def text(content: str, *, finish: str | None = None, **delta: str) -> bytes:
    return event(choices=[{"delta": {"content": content, **delta}, "finish_reason": finish}])


def usage(tokens: int, *, prompt: int = 9, cached: int | None = None) -> dict[str, Any]:
    details = None if cached is None else {"cached_tokens": cached}
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "prompt_tokens_details": details}


DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def streamed(*events: bytes) -> list[Step]:
    """A whole answer, one HTTP chunk per event."""
    return [HEAD, *(chunk(each) for each in (*events, DONE)), END]


def answered(status: int, body: bytes) -> list[Step]:
    return [b"HTTP/1.1 %d Reason\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)]


# --- calls


def request_to(
    engine: ScriptedEngine,
    query: Query = CHAT,
    plan: CallPlan = SAMPLE,
    *,
    kind: EngineKind = EngineKind.VLLM,
    **fields: Any,
) -> CallRequest:
    return CallRequest(Endpoint(engine.url, kind), query, plan, Branch(2), request_id="query/2/1.1", **fields)


async def completed(*script: Step, **request: Any) -> tuple[Completion, EngineCall]:
    async with engine(script) as scripted, client() as opened:
        call = opened.open(request_to(scripted, **request))
        return await call.completion(lambda _: None), call


async def failure(*script: Step, **request: Any) -> tuple[EngineError, EngineCall]:
    async with engine(script) as scripted, client() as opened:
        call = opened.open(request_to(scripted, **request))
        with pytest.raises(EngineError) as raised:
            await call.completion(lambda _: None)
        return raised.value, call


# --- what is asked


async def test_a_chat_is_asked_for_as_vllm_wants_it() -> None:
    sampling = SamplingParameters(temperature=0.5, top_p=0.9, top_k=7, max_tokens=33, stop=("a", "b"), seed=40)
    async with engine(streamed(text("7", finish="stop"))) as scripted, client() as opened:
        call = opened.open(request_to(scripted, replace(CHAT, sampling=sampling), priority=5))
        await call.completion(lambda _: None)

    (seen,) = scripted.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["x-request-id"] == "query/2/1.1"
    assert seen.body == {
        "model": "model",
        "messages": [{"role": "user", "content": "What is it?"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "max_tokens": 33,
        "stop": ["a", "b"],
        "seed": 42,  # of branch 2
        "priority": 5,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


async def test_a_prompt_goes_to_completions_and_an_unknown_server_gets_no_words_of_vllm() -> None:
    prompt = replace(CHAT, messages=(), prompt="Once upon a time")
    script = streamed(event(choices=[{"text": " there was", "finish_reason": "length"}]))
    async with engine(script) as scripted, client() as opened:
        call = opened.open(request_to(scripted, prompt, kind=EngineKind.EXTERNAL, priority=5))
        completion = await call.completion(lambda _: None)

    (seen,) = scripted.requests
    assert completion == Completion(" there was", "length")
    assert seen.path == "/v1/completions"
    assert seen.body["prompt"] == "Once upon a time"
    assert seen.body["stream_options"] == {"include_usage": True}
    assert not {"priority", "messages", "seed", "top_k"} & seen.body.keys()


@pytest.mark.parametrize(
    ("kind", "sampling", "name"),
    [
        (EngineKind.VLLM_CPU, SamplingParameters(seed=1), "seed"),
        (EngineKind.REPLAY, SamplingParameters(seed=0), "seed"),
        (EngineKind.EXTERNAL, SamplingParameters(top_k=5), "top_k"),
    ],
)
async def test_what_an_engine_cannot_honour_is_refused_and_never_sent(
    kind: EngineKind, sampling: SamplingParameters, name: str
) -> None:
    async with engine(streamed()) as scripted, client() as opened:
        call = opened.open(request_to(scripted, replace(CHAT, sampling=sampling), kind=kind))
        with pytest.raises(EngineError, match=f"leave sampling.{name} unset") as raised:
            await call.completion(lambda _: None)

    assert raised.value.reason is EngineReason.PARAMETER_UNSUPPORTED
    assert not raised.value.is_retryable
    assert not scripted.requests


async def test_an_engine_that_refuses_priorities_is_asked_again_without_and_never_with_one() -> None:
    refused = answered(400, b'{"error": {"message": "Got priority 5 but Priority scheduling is not enabled."}}')
    async with engine(refused, streamed(text("7", finish="stop"))) as scripted, client() as opened:
        for _ in range(2):
            await opened.open(request_to(scripted, priority=5)).completion(lambda _: None)

    assert ["priority" in seen.body for seen in scripted.requests] == [True, False, False]


async def test_a_connection_is_used_again() -> None:
    async with engine(streamed(text("7", finish="stop"))) as scripted, client() as opened:
        for _ in range(5):
            await opened.open(request_to(scripted)).completion(lambda _: None)

    assert scripted.connections == 1
    assert len(scripted.requests) == 5


# --- what is read


async def test_text_arrives_in_parts_with_running_usage() -> None:
    script = streamed(
        event(choices=[{"delta": {"role": "assistant", "content": ""}}], usage=usage(0, cached=4)),
        event(choices=[{"delta": {"content": "The "}}], usage=usage(2)),
        event(choices=[{"delta": {"content": "answer"}, "finish_reason": "stop"}], usage=usage(3)),
        event(choices=[], usage=usage(3, cached=8)),
    )
    heard: list[tuple[str, int]] = []
    async with engine(script) as scripted, client() as opened:
        call = opened.open(request_to(scripted))
        completion = await call.completion(lambda new: heard.append((new, call.tokens)))

    assert completion == Completion("The answer", "stop")
    assert heard == [("", 0), ("The ", 2), ("answer", 3), ("", 3)]
    assert (call.tokens, call.prompt_tokens, call.cached_prompt_tokens) == (3, 9, 8)


async def test_without_running_usage_every_event_counts_as_a_token() -> None:
    _, call = await completed(*streamed(text("a"), text("b"), text("c", finish="stop")))

    assert call.tokens == 3


async def test_the_final_usage_corrects_what_was_counted() -> None:
    _, call = await completed(*streamed(text("a"), text("b", finish="stop"), event(choices=[], usage=usage(17))))

    assert (call.tokens, call.prompt_tokens) == (17, 9)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_is_put_between_tags(name: str) -> None:
    def thought(content: str) -> bytes:
        return event(choices=[{"delta": {name: content}}])

    whole, _ = await completed(*streamed(thought("Let me"), thought(" see."), text("It is 7.", finish="stop")))
    cut_short = event(choices=[{"delta": {}, "finish_reason": "length"}])
    only, _ = await completed(*streamed(thought("Let me see."), cut_short))

    assert whole.text == "<think>Let me see.</think>It is 7."
    assert only.text == "<think>Let me see.</think>"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_events_may_be_cut_anywhere(size: int) -> None:
    data = b": comment\n\nevent: x\r\nid: 1\n" + text("schön ") + text("∑ 7", finish="stop") + DONE
    pieces = [chunk(data[first : first + size]) for first in range(0, len(data), size)]

    completion, _ = await completed(HEAD, *pieces, END)

    assert completion.text == "schön ∑ 7"


async def test_what_comes_after_the_end_is_not_waited_for() -> None:
    completion, _ = await completed(HEAD, chunk(text("7", finish="stop") + DONE), HANG)

    assert completion.text == "7"


@pytest.mark.parametrize("ending", [(CUT,), (chunk(b"data: more"), CUT)])
async def test_a_completion_is_whole_once_the_engine_says_so(ending: tuple[Step, ...]) -> None:
    completion, _ = await completed(HEAD, chunk(text("7", finish="stop") + DONE), *ending)

    assert completion.text == "7"


@pytest.mark.parametrize(
    ("end", "stopped_at"),
    [
        ({"finish_reason": "stop", "stop_reason": "Wait"}, "Wait"),
        ({"finish_reason": "stop", "matched_stop": "Wait"}, "Wait"),
        ({"finish_reason": "stop", "stop_reason": 151643}, None),
        ({"finish_reason": "stop", "stop_reason": None}, None),
        ({"finish_reason": "stop", "matched_stop": 151645}, None),
        ({"finish_reason": "stop", "stop_reason": None, "matched_stop": "Wait"}, "Wait"),
        ({"finish_reason": "length"}, None),
    ],
)
async def test_the_stop_string_that_ended_it_is_known_where_the_engine_says_so(
    end: dict[str, Any], stopped_at: str | None
) -> None:
    script = streamed(text("It is 7. "), event(choices=[{"delta": {}, **end}]))
    completion, _ = await completed(*script)
    kept, _ = await completed(*script, plan=ONE_STEP, kind=EngineKind.EXTERNAL)

    assert completion.stopped_at == stopped_at
    assert completion.text == "It is 7. "
    assert kept.text == "It is 7. " + (stopped_at or "")


async def test_an_engine_that_does_not_say_what_ended_a_step_is_refused() -> None:
    script = streamed(text("It is 7. "), event(choices=[{"delta": {}, "finish_reason": "stop"}]))
    error, _ = await failure(*script, plan=ONE_STEP, kind=EngineKind.EXTERNAL)
    whole, _ = await completed(*script)

    assert error.reason is EngineReason.CALL_UNSUPPORTED
    assert not error.is_retryable
    assert "which stop string ended" in str(error)
    assert "stop_reason" in str(error)
    assert "vLLM" in str(error)
    assert whole.text == "It is 7. ", "whoever asks for no step need not know"


async def test_a_stop_string_that_the_engine_keeps_is_not_put_there_twice() -> None:
    end = event(choices=[{"delta": {"content": "Wait"}, "finish_reason": "stop", "stop_reason": "Wait"}])
    completion, _ = await completed(*streamed(text("It is 7. "), end), plan=ONE_STEP, kind=EngineKind.EXTERNAL)

    assert completion.text == "It is 7. Wait"


@pytest.mark.parametrize(
    ("end", "whole"),
    [
        ({"finish_reason": "stop", "stop_reason": None}, "<think>Hm.</think>"),
        ({"finish_reason": "stop", "stop_reason": "\n\n"}, "<think>Hm.\n\n"),
        ({"finish_reason": "length"}, "<think>Hm."),
    ],
)
async def test_a_step_that_ends_in_a_thought_leaves_it_open_and_listeners_hear_the_same(
    end: dict[str, Any], whole: str
) -> None:
    heard: list[str] = []
    thought = event(choices=[{"delta": {"reasoning": "Hm."}, **end}])
    async with engine(streamed(thought)) as scripted, client() as opened:
        call = opened.open(request_to(scripted, plan=ONE_STEP, kind=EngineKind.EXTERNAL))
        completion = await call.completion(heard.append)

    assert completion.text == whole == "".join(heard) == "".join(call.parts)


@pytest.mark.parametrize(
    ("deltas", "whole"),
    [
        ([{"reasoning": "Six "}, {"reasoning": "sevens."}, {"content": "42"}], "Six sevens.</think>42"),
        ([{"reasoning_content": "Six sevens.", "content": "42"}], "Six sevens.</think>42"),
        ([{"content": "Six sevens."}, {"content": "</think>42"}], "Six sevens.</think>42"),
    ],
    ids=["parsed", "parsed in one piece", "not parsed"],
)
async def test_a_thought_that_goes_on_is_not_opened_twice(deltas: list[dict[str, str]], whole: str) -> None:
    plan = replace(ONE_STEP, continuation="<think>Hm.\n\n")
    end = event(choices=[{"delta": {}, "finish_reason": "stop", "stop_reason": None}])
    completion, _ = await completed(
        *streamed(*(event(choices=[{"delta": delta}]) for delta in deltas), end), plan=plan, kind=EngineKind.EXTERNAL
    )

    assert completion.text == whole


# --- what goes wrong


GARBAGE: list[tuple[str, bytes]] = [
    ("html", b"<html>Bad gateway</html>\n"),
    ("no JSON", b"data: {oops}\n\n"),
    ("cut JSON", b'data: {"choices": [\n\n'),
    ("another shape", b'data: {"choices": {"delta": 7}}\n\n'),
    ("a list", b"data: [1, 2]\n\n"),
    ("no UTF-8", b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'),
    ("deep nesting", b"data: " + b"[" * 100_000 + b"\n\n"),
    ("negative usage", b'data: {"choices": [], "usage": {"completion_tokens": -5}}\n\n'),
    ("huge usage", b'data: {"choices": [], "usage": {"completion_tokens": 99999999999999999999}}\n\n'),
    ("fractional usage", b'data: {"choices": [], "usage": {"completion_tokens": 1.5}}\n\n'),
]


@pytest.mark.parametrize("data", [case[1] for case in GARBAGE], ids=[case[0] for case in GARBAGE])
async def test_garbage_is_named_as_such(data: bytes) -> None:
    error, call = await failure(HEAD, chunk(text("a")), chunk(data), HANG)

    assert error.reason is EngineReason.ENGINE_GARBAGE
    assert error.is_retryable
    assert len(str(error)) < 300
    assert call.tokens == 1


async def test_what_does_not_speak_http_is_no_engine() -> None:
    error, _ = await failure(b"SSH-2.0-OpenSSH_9.6\r\n", CUT)

    assert error.reason is EngineReason.ENGINE_GARBAGE
    assert "no HTTP" in str(error)


async def test_an_endless_line_is_given_up() -> None:
    error, _ = await failure(HEAD, *[chunk(b"a" * 1_000_000)] * 6, HANG)

    assert error.reason is EngineReason.ENGINE_GARBAGE


@pytest.mark.parametrize(("max_tokens", "bound"), [(1, 4296), (20, 8096), (100_000, 8_000_000)])
async def test_more_text_than_was_asked_for_is_given_up(max_tokens: int, bound: int) -> None:
    plan = CallPlan(max_tokens=max_tokens)
    whole, rest = divmod(bound - 1, 1_000_000)
    fits = [chunk(text("a" * size)) for size in (*[1_000_000] * whole, rest)]
    completion, _ = await completed(HEAD, *fits, chunk(text("a", finish="stop") + DONE), END, plan=plan)
    error, _ = await failure(HEAD, *fits, chunk(text("aa")), HANG, plan=plan)

    assert len(completion.text) == bound
    assert error.reason is EngineReason.ENGINE_GARBAGE
    assert f"more than {bound} characters in one completion of at most {max_tokens} tokens" in str(error)


@pytest.mark.parametrize(
    "ending",
    [(CUT,), (END,), (chunk(DONE), END), (chunk(text("", finish="abort") + DONE), END)],
    ids=["cut", "end", "done without a reason", "aborted"],
)
async def test_a_stream_without_its_end_is_broken_off(ending: tuple[Step, ...]) -> None:
    error, call = await failure(HEAD, chunk(text("a") + text("b")), *ending)

    assert error.reason is EngineReason.ENGINE_BROKE_OFF
    assert error.is_retryable
    assert call.tokens in (2, 3)


@pytest.mark.parametrize("script", [(HANG,), (HEAD, HANG), (HEAD, chunk(text("a")), HANG)])
async def test_silence_is_a_hung_engine(script: tuple[Step, ...]) -> None:
    error, _ = await failure(*script)

    assert error.reason is EngineReason.ENGINE_HUNG
    assert f"{STALL_SECONDS:g} s" in str(error)


async def test_an_engine_that_is_slow_but_speaks_is_not_hung() -> None:
    async with engine([HANG]) as scripted, client(stall=0.5) as opened:

        async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            for _ in range(6):
                await asyncio.sleep(0.15)
                writer.write(chunk(text("a")))
            writer.write(chunk(text("", finish="stop") + DONE) + END)
            writer.close()

        server = await asyncio.start_server(slowly, "127.0.0.1", 0)
        scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        completion = await opened.open(request_to(scripted)).completion(lambda _: None)
        server.close()

    assert completion.text == "aaaaaa"


async def test_an_engine_that_is_down_is_unavailable() -> None:
    async with engine([]) as scripted:
        pass
    async with client() as opened:
        with pytest.raises(EngineError, match="cannot be reached") as raised:
            await opened.open(request_to(scripted)).completion(lambda _: None)

    assert raised.value.reason is EngineReason.ENGINE_UNAVAILABLE


async def test_an_error_within_the_stream_is_the_engines_own() -> None:
    error, _ = await failure(*streamed(text("a"), event(error={"message": "CUDA out of memory"})))

    assert error.reason is EngineReason.ENGINE_FAILED
    assert "CUDA out of memory" in str(error)


@pytest.mark.parametrize(
    ("code", "message", "reason", "words"),
    [
        (400, "logprobs of 21 is greater than max allowed", EngineReason.ENGINE_REFUSED, "21"),
        (400, "thinking_token_budget is set but …", EngineReason.PARAMETER_UNSUPPORTED, "--reasoning-parser"),
        (400, "maximum context length is 8", EngineReason.PROMPT_TOO_LONG, "shorten"),
        (500, "EngineCore died", EngineReason.ENGINE_FAILED, "EngineCore died"),
        ("server_error", "overheated", EngineReason.ENGINE_FAILED, "overheated"),
    ],
)
async def test_vllm_refuses_some_requests_only_within_the_stream(
    code: int | str, message: str, reason: EngineReason, words: str
) -> None:
    error, _ = await failure(*streamed(event(error={"message": message, "type": "X", "param": None, "code": code})))

    assert error.reason is reason
    assert words in str(error)


@pytest.mark.parametrize(
    ("status", "body", "reason", "words"),
    [
        (400, b'{"error": {"message": "bad sampling"}}', EngineReason.ENGINE_REFUSED, "bad sampling"),
        (400, b'{"message": "older shape"}', EngineReason.ENGINE_REFUSED, "older shape"),
        (400, b'{"error": "a word"}', EngineReason.ENGINE_REFUSED, "a word"),
        (400, b'{"error": {"message": "maximum context length is 8"}}', EngineReason.PROMPT_TOO_LONG, "shorten"),
        (422, b'{"error": {"message": "prompt is too long"}}', EngineReason.PROMPT_TOO_LONG, "shorten"),
        (401, b"who are you?", EngineReason.ENGINE_UNAUTHORIZED, "key"),
        (403, b"", EngineReason.ENGINE_UNAUTHORIZED, "no message"),
        (404, b'{"error": {"message": "no such model"}}', EngineReason.MODEL_NOT_SERVED, "no such model"),
        (404, b'{"error": {"message": "no trace", "param": "prompt"}}', EngineReason.PROMPT_NOT_RECORDED, "no trace"),
        (404, b'{"detail": "Not Found"}', EngineReason.MODEL_NOT_SERVED, "404: Not Found"),
        (422, b'{"detail": [{"msg": "wrong"}]}', EngineReason.ENGINE_REFUSED, "no message"),
        (408, b"", EngineReason.ENGINE_FAILED, "408"),
        (501, b'{"error": {"message": "no such API", "code": 501}}', EngineReason.CALL_UNSUPPORTED, "no such API"),
        (429, b"slow down", EngineReason.ENGINE_OVERLOADED, "slow down"),
        (500, b"\xff\xfe oops", EngineReason.ENGINE_FAILED, "oops"),
        (502, b"<html>" + b"x" * 5000, EngineReason.ENGINE_FAILED, "<html>"),
        (503, b"", EngineReason.ENGINE_OVERLOADED, "503"),
    ],
)
async def test_a_refusal_has_its_reason_and_the_engines_words(
    status: int, body: bytes, reason: EngineReason, words: str
) -> None:
    error, _ = await failure(*answered(status, body))

    assert error.reason is reason
    assert words in str(error)
    assert len(str(error)) < 500
    assert error.as_program_error().reason == reason.value


# --- closing


async def test_closing_a_call_hangs_up() -> None:
    async with engine([HEAD, chunk(text("a")), HANG]) as scripted, client(stall=30) as opened:
        call = opened.open(request_to(scripted))
        begun = asyncio.Event()
        running = asyncio.create_task(call.completion(lambda _: begun.set()))
        await begun.wait()

        call.close()
        running.cancel()

        await asyncio.wait_for(scripted.hung_up.wait(), 5)
        await asyncio.gather(running, return_exceptions=True)
    assert call.is_closed


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_call_closed_before_its_answer_hangs_up(is_cancelled: bool) -> None:
    async with engine([HANG]) as scripted, client(stall=30) as opened:
        call = opened.open(request_to(scripted))
        running = asyncio.create_task(call.completion(lambda _: None))
        while not scripted.requests:  # noqa: ASYNC110 - what it awaits is another coroutine's list
            await asyncio.sleep(0.005)

        call.close()
        call.close()
        if is_cancelled:
            running.cancel()

        await asyncio.wait_for(scripted.hung_up.wait(), 5)
        with pytest.raises(asyncio.CancelledError if is_cancelled else EngineError):
            await running


async def test_a_call_closed_at_any_turn_of_the_loop_ends_at_once() -> None:
    """Just when its answer has come, too."""
    async with engine([HEAD, chunk(text("a")), HANG]) as scripted, client(stall=30) as opened:
        for turns in range(60):
            call = opened.open(request_to(scripted))
            running = asyncio.create_task(call.completion(lambda _: None))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.close()
            async with asyncio.timeout(5):
                with pytest.raises(EngineError, match="was closed"):
                    await running


async def test_a_call_closed_by_whoever_hears_of_it_says_no_more() -> None:
    """A budget that is reached closes the call while the rest of what has come is still to be read."""
    told: list[str] = []

    def hear(new: str) -> None:
        told.append(new)
        call.close()

    script = [HEAD, chunk(text("a") + text("b") + text("c", finish="stop") + DONE), END]
    async with engine(script) as scripted, client() as opened:
        call = opened.open(request_to(scripted))
        with pytest.raises(EngineError, match="was closed"):
            await call.completion(hear)

    assert told == ["a"]


async def test_a_closed_call_does_not_begin() -> None:
    async with engine(streamed(text("7", finish="stop"))) as scripted, client() as opened:
        call = opened.open(request_to(scripted))
        call.close()
        with pytest.raises(EngineError, match="was closed"):
            await call.completion(lambda _: None)

    assert not scripted.requests


async def test_a_call_may_be_closed_before_it_starts_and_after_its_end() -> None:
    async with engine(streamed(text("7", finish="stop"))) as scripted, client() as opened:
        early = opened.open(request_to(scripted))
        early.close()
        late = opened.open(request_to(scripted))
        await late.completion(lambda _: None)
        late.close()

    assert len(scripted.requests) == 1


# --- probes


async def probed(status: int, body: bytes) -> Any:
    async with engine(answered(status, body)) as scripted, aiohttp.ClientSession() as session:
        return await probe(session, scripted.url, timeout_seconds=1.0)


async def test_a_probe_tells_what_is_served() -> None:
    body = b'{"data": [{"id": "a", "owned_by": "vllm", "max_model_len": 4096}, {"id": "b"}]}'

    profile = await probed(200, body)

    assert (profile.models, profile.is_vllm, profile.max_model_len) == (("a", "b"), True, 4096)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b"oops", EngineReason.ENGINE_UNAVAILABLE),
        (200, b"<html>", EngineReason.ENGINE_GARBAGE),
        (200, b'{"data": 7}', EngineReason.ENGINE_GARBAGE),
        (200, b'{"data": [{"id": "a", "max_model_len": 1e30}]}', EngineReason.ENGINE_GARBAGE),
        (200, b'{"data": [{"id": "a", "max_model_len": 99999999999}]}', EngineReason.ENGINE_GARBAGE),
        (200, b'{"data": [{"id": "a", "max_model_len": -1}]}', EngineReason.ENGINE_GARBAGE),
        (200, b'{"data": [{"id": "\xff"}]}', EngineReason.ENGINE_GARBAGE),
        (200, b"[" * 100_000, EngineReason.ENGINE_GARBAGE),
    ],
)
async def test_a_probe_says_what_is_no_engine(status: int, body: bytes, reason: EngineReason) -> None:
    with pytest.raises(EngineError) as raised:
        await probed(status, body)

    assert raised.value.reason is reason


async def test_a_probe_does_not_wait_for_ever() -> None:
    async with engine([HANG]) as scripted, aiohttp.ClientSession() as session:
        with pytest.raises(EngineError, match=r"within 0.2 s"):
            await probe(session, scripted.url, timeout_seconds=0.2)

"""Chains over HTTP: a real replay engine, talked to as the project's own client talks, and by that client itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import pytest_asyncio

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.probe_schedule import ProbeClock, ProbeSchedule
from dynasor_serve.certaindex.token_confidence import mean_probability
from dynasor_serve.certaindex.trial_answer import read_trial
from dynasor_serve.engines.client import CallRequest, Completion, Endpoint, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.replay.records import Probe, ProbesRecord
from dynasor_serve.engines.replay.traces import read_records
from dynasor_serve.programs.calls import CallPlan, Watch
from dynasor_serve.programs.probe_prompts import BUILT_IN
from dynasor_serve.programs.query import Branch, Message, Query

from fakes.replay_process import MODEL, SYNTHETIC_CHAINS, ReplayProcess, running_replay

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
FAST = ("--ttft-ms", "0", "--time-per-output-token-ms", "0")
RUNNING_USAGE = {"include_usage": True, "continuous_usage_stats": True}
DEER = BUILT_IN["deer"].suffix
CONCLUSION = "\n\n**Final Answer**\n\\boxed{"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replay() -> AsyncIterator[ReplayProcess]:
    async with running_replay(*FAST, "--stream-interval", "4", traces=SYNTHETIC_CHAINS) as running:
        yield running


@cache
def recorded(question: str) -> tuple[ProbesRecord, ...]:
    """The chains of a question, by branch."""
    records = read_records([SYNTHETIC_CHAINS])
    return tuple(each for each in records if isinstance(each, ProbesRecord) and each.question_id == question)


def last_probe(record: ProbesRecord, position: int) -> Probe | None:
    return next((probe for probe in reversed(record.trials()) if probe.position <= position), None)


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Think, then answer. [[trace:synthetic-chains/{question}]]"}]


async def post(replay: ReplayProcess, path: str, body: dict[str, Any], call_id: str = "q/0/1.1") -> dict[str, Any]:
    headers = {"X-Request-Id": call_id}
    async with replay.http.post(path, json={"model": MODEL, **body}, headers=headers) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def rendered(replay: ReplayProcess, question: str) -> str:
    """A chat's text, asked for as a client does that goes on with it."""
    chat = {"messages": messages(question), "add_generation_prompt": True}
    tokens = (await post(replay, "/tokenize", chat))["tokens"]
    prompt = (await post(replay, "/detokenize", {"tokens": tokens}))["prompt"]
    again = await post(replay, "/tokenize", {"prompt": prompt, "add_special_tokens": False})
    assert again["tokens"] == tokens, "the text is read back as the same tokens"
    assert again["count"] == len(tokens)
    return str(prompt)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A stream: after each event the text and the tokens so far, and how it ended."""

    steps: list[tuple[str, int]]
    finish_reason: str

    @property
    def text(self) -> str:
        return self.steps[-1][0]

    @property
    def tokens(self) -> int:
        return self.steps[-1][1]


async def stream(replay: ReplayProcess, prompt: str, call_id: str = "q/0/1.1", **fields: Any) -> Streamed:
    known = {"max_tokens": 4096, "add_special_tokens": False, "stream": True, "stream_options": RUNNING_USAGE}
    body = {"model": MODEL, "prompt": prompt, **known, **fields}
    async with replay.http.post(COMPLETIONS, json=body, headers={"X-Request-Id": call_id}) as response:
        assert response.status == 200, await response.text()
        blocks = (await response.text()).split("\n\n")
    events = [json.loads(block.removeprefix("data: ")) for block in blocks if block and "[DONE]" not in block]
    steps, text, finish_reason = [], "", ""
    for event in events[:-1]:
        choice = event["choices"][0]
        text += choice["text"]
        finish_reason = choice["finish_reason"] or finish_reason
        steps.append((text, event["usage"]["completion_tokens"]))
    return Streamed(steps, finish_reason)


async def probe(replay: ReplayProcess, prompt: str, call_id: str = "q/0/1.1.p1", **fields: Any) -> dict[str, Any]:
    """The whole answer to a probe."""
    answer = await post(replay, COMPLETIONS, {"prompt": prompt, "max_tokens": 20, **fields}, call_id)
    choice: dict[str, Any] = answer["choices"][0]
    return choice | {"usage": answer["usage"]}


# --- as the client talks


@pytest.mark.parametrize("question", ["converging", "hesitant", "confident", "unfinished"])
async def test_every_branch_streams_its_chain_with_its_tokens(replay: ReplayProcess, question: str) -> None:
    prompt = await rendered(replay, question)

    for branch, record in enumerate(recorded(question)):
        chain = await stream(replay, prompt, f"q/{branch}/1.1")
        assert chain.tokens == record.tokens
        assert chain.finish_reason == ("stop" if record.finished else "length")
        answer = f"The final answer is \\boxed{{{record.final_answer}}}."
        assert chain.text.endswith(answer) is record.finished


async def test_at_every_event_a_chain_is_found_again_by_its_text(replay: ReplayProcess) -> None:
    record = recorded("converging")[1]
    prompt = await rendered(replay, "converging")
    chain = await stream(replay, prompt, "q/1/1.1")

    for number, (text, position) in enumerate(chain.steps[:-1:15]):
        reply, rest = await asyncio.gather(
            probe(replay, prompt + text + DEER, f"q/1/1.1.p{number}"),
            stream(replay, prompt + text, f"another/{number}/2.1"),
        )
        wanted = last_probe(record, position)
        assert reply["text"] == (f"{wanted.answer}}}." if wanted else "}."), f"at token {position}"
        assert reply["usage"]["completion_tokens"] == (wanted.tokens if wanted else 1)
        assert text + rest.text == chain.text
        assert position + rest.tokens == chain.tokens


async def test_a_client_that_waits_for_marks_hears_every_trial_answer_with_its_confidence(
    replay: ReplayProcess,
) -> None:
    record = recorded("confident")[2]
    prompt = await rendered(replay, "confident")
    chain = await stream(replay, prompt, "q/2/1.1")
    clock = ProbeClock(ProbeSchedule(marks=("Wait",), min_gap=1))

    trials, heard = [], ""
    for text, position in chain.steps:
        delta, heard = text[len(heard) :], text
        if clock.due(delta, position):
            asked = prompt + clock.cut(text) + DEER
            reply = await probe(replay, asked, "q/2/1.1.p1", logprobs=1)
            logprobs = reply["logprobs"]
            answered = [i for i in range(len(logprobs["tokens"])) if "}" not in "".join(logprobs["tokens"][:i])]
            confidence = mean_probability([logprobs["token_logprobs"][i] for i in answered])
            trials.append((read_trial(reply["text"], AnswerType.MATH, opened_box=True).answer, confidence))

    wanted = [(each.answer, each.confidence) for each in record.trials()]
    neighbour = wanted.pop(3)  # its mark and the next came in one event: a client hears the newest of them
    assert neighbour[1] == 0.9655
    assert [answer for answer, _ in trials] == [answer for answer, _ in wanted]
    assert [confidence for _, confidence in trials] == pytest.approx([each for _, each in wanted], abs=1e-6)


async def test_hesitation_is_heard_where_it_was_recorded(replay: ReplayProcess) -> None:
    record = recorded("hesitant")[0]
    prompt = await rendered(replay, "hesitant")
    chain = await stream(replay, prompt)

    heard = {}
    for text, position in chain.steps:
        wanted = last_probe(record, position)
        if wanted is not None and wanted.position not in heard:
            reply = await probe(replay, prompt + text + DEER)
            heard[wanted.position] = read_trial(reply["text"], AnswerType.MATH, opened_box=True).hesitant

    assert heard == {each.position: not each.certain for each in record.trials()}


async def test_a_chain_that_ran_out_of_tokens_concludes_with_what_was_recorded_there(replay: ReplayProcess) -> None:
    prompt = await rendered(replay, "misled")
    cut = await stream(replay, prompt, max_tokens=400)
    whole = await stream(replay, prompt)

    assert (cut.tokens, cut.finish_reason) == (400, "length")
    assert whole.text.startswith(cut.text)
    assert (await probe(replay, prompt + cut.text + CONCLUSION, "q/1/1.1"))["text"] == "21}."
    assert (await probe(replay, prompt + cut.text + "\n</think>\n\n" + CONCLUSION))["text"] == "21}."
    assert (await probe(replay, prompt + whole.text + CONCLUSION, "q/1/1.1"))["text"] == "12}."


async def test_a_chat_goes_on_with_its_last_message(replay: ReplayProcess) -> None:
    whole = (await post(replay, CHAT, {"messages": messages("doubtful")}))["choices"][0]["message"]["content"]
    said = whole[:700]
    going_on = {"add_generation_prompt": False, "continue_final_message": True}

    chat = [*messages("doubtful"), {"role": "assistant", "content": said}]
    rest = await post(replay, CHAT, {"messages": chat, **going_on}, "q/1/2.1")
    chat = [*messages("doubtful"), {"role": "assistant", "content": said + DEER}]
    trial = await post(replay, CHAT, {"messages": chat, **going_on, "logprobs": True, "top_logprobs": 2}, "q/1/2.1.p1")

    assert said + rest["choices"][0]["message"]["content"] == whole
    choice = trial["choices"][0]
    assert choice["message"]["content"] == "56}."
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == "56}."
    assert mean_probability([entry["logprob"] for entry in content]) == pytest.approx(0.3301, abs=1e-6)
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * len(content)


async def test_a_plain_prompt_with_a_marker_is_gone_on_with_too(replay: ReplayProcess) -> None:
    prompt = "Question [[trace:synthetic-chains/misled]]: how many? Think.\nAnswer:"
    whole = await stream(replay, prompt)

    rest = await stream(replay, prompt + whole.steps[20][0], "another/1/1.1")
    trial = await probe(replay, prompt + whole.steps[60][0] + DEER)

    assert whole.steps[20][0] + rest.text == whole.text
    assert whole.steps[20][1] + rest.tokens == whole.tokens
    assert trial["text"] == "21}."


async def test_log_probabilities_of_a_stream_are_those_of_the_whole_answer(replay: ReplayProcess) -> None:
    prompt = await rendered(replay, "misled")
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 30, "logprobs": 3}
    whole = (await post(replay, COMPLETIONS, body))["choices"][0]["logprobs"]
    again = (await post(replay, COMPLETIONS, body))["choices"][0]["logprobs"]

    async with replay.http.post(
        COMPLETIONS, json=body | {"stream": True}, headers={"X-Request-Id": "q/0/1.1"}
    ) as response:
        blocks = (await response.text()).split("\n\n")
    parts = [json.loads(block.removeprefix("data: ")) for block in blocks if block and "[DONE]" not in block]
    streamed = [part["choices"][0]["logprobs"] for part in parts]

    assert again == whole, "made up, and the same at every play"
    assert len(whole["tokens"]) == 30
    for key, values in whole.items():
        assert [value for part in streamed for value in part[key]] == values, key
    assert all(len(top) == 3 for top in whole["top_logprobs"])


# --- by the client itself


@asynccontextmanager
async def opened(replay: ReplayProcess) -> AsyncIterator[Any]:
    """A function that runs one planned call of a branch with the project's own client."""
    client = EngineClient(EngineTimeouts())

    async def run(question: str, plan: CallPlan, call_id: str = "q/0/1.1") -> tuple[Completion, int]:
        chat = tuple(Message(each["role"], each["content"]) for each in messages(question))
        query = Query(model=MODEL, rule="even", messages=chat)
        endpoint = Endpoint(replay.url, EngineKind.REPLAY)
        call = client.open(CallRequest(endpoint, query, plan, Branch(0), call_id))
        completion = await call.completion(lambda _: None)
        return completion, call.tokens

    try:
        yield run
    finally:
        await client.close()


async def test_the_projects_client_thinks_probes_resumes_and_concludes(replay: ReplayProcess) -> None:
    record = recorded("confident")[0]
    watch = Watch(ProbeSchedule(interval=32), probe=None)
    async with opened(replay) as run:
        thought, tokens = await run("confident", CallPlan(max_tokens=4096, watch=watch))
        begun, begun_tokens = await run("confident", CallPlan(max_tokens=400, watch=watch))
        resumed, left = await run("confident", CallPlan(continuation=begun.text, max_tokens=4096), "q/0/2.1")
        deer = BUILT_IN["deer"]
        trial, trial_tokens = await run(
            "confident",
            CallPlan(
                continuation=begun.text, suffix=deer.suffix, opened_box=True, max_tokens=20, stop=(),
                asks_probability=True,
            ),
            "q/0/1.1.p3",
        )  # fmt: skip
        conclusion, _ = await run(
            "confident",
            CallPlan(continuation=begun.text, suffix=CONCLUSION, closes_thinking=True, opened_box=True, max_tokens=20),
            "q/1/1.1",
        )

    wanted = last_probe(record, 400)
    assert wanted is not None
    assert (tokens, thought.finish_reason) == (record.tokens, "stop")
    assert (begun_tokens, begun.finish_reason) == (400, "length")
    assert (begun.text + resumed.text, begun_tokens + left) == (thought.text, tokens)
    assert (trial.text, trial_tokens) == (f"{wanted.answer}}}.", wanted.tokens)
    assert trial.probability == pytest.approx(wanted.confidence, abs=1e-6)
    assert conclusion.text == trial.text


# --- refusals


@pytest.mark.parametrize(
    ("said", "fields", "status", "complaint"),
    [
        ("I think that", {}, 404, "words that are not recorded"),
        ("", {"logprobs": 21}, 400, "greater than max allowed: 20"),
        ("", {"logprobs": -1}, 400, "must be a positive value"),
        ("", {"prompt": [1, 2]}, 400, "not as token ids"),
        ("", {"prompt": "[[trace:synthetic-chains/nothing]]"}, 404, "[[trace:synthetic-chains/converging]]"),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_its_kind(
    replay: ReplayProcess, said: str, fields: dict[str, Any], status: int, complaint: str
) -> None:
    body = {"model": MODEL, "prompt": await rendered(replay, "misled") + said, **fields}
    async with replay.http.post(COMPLETIONS, json=body) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, status)

    assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")
    assert complaint in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("/detokenize", {"tokens": [0]}, "token id 0 is out of vocabulary; give ids that /tokenize returned"),
        ("/detokenize", {"tokens": "text"}, "Expected"),
        ("/tokenize", {}, "give `prompt` or `messages`"),
        (
            CHAT,
            {"messages": messages("misled"), "continue_final_message": True, "add_generation_prompt": True},
            "Cannot set both",
        ),
    ],
)
async def test_bodies_that_do_not_fit_are_refused(
    replay: ReplayProcess, path: str, body: dict[str, Any], complaint: str
) -> None:
    async with replay.http.post(path, json=body) as response:
        assert response.status == 400
        assert complaint in (await response.json())["error"]["message"]


# --- faults


async def probed_with(*flags: str, question: str = "misled") -> Completion:
    """What the project's client makes of a probe that fails."""
    async with running_replay(*FAST, *flags, traces=SYNTHETIC_CHAINS) as faulty, opened(faulty) as run:
        begun, _ = await run(question, CallPlan(max_tokens=200, watch=Watch(ProbeSchedule(interval=32), probe=None)))
        plan = CallPlan(continuation=begun.text, suffix=DEER, opened_box=True, max_tokens=20, asks_probability=True)
        completion, _ = await run(question, plan, "q/0/1.1.p1")
        return completion


async def test_an_empty_probe_says_nothing() -> None:
    reply = await probed_with("--fault", "empty-probe:1")

    assert (reply.text, reply.finish_reason) == ("", "stop")
    assert read_trial(reply.text, AnswerType.NUMBER, opened_box=True).answer is None


async def test_a_huge_probe_is_more_than_a_client_takes() -> None:
    with pytest.raises(EngineError) as raised:
        await probed_with("--fault", "huge-probe:1")

    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


async def test_an_endless_chain_runs_into_its_limit_and_probes_still_find_their_place() -> None:
    async with running_replay(*FAST, "--fault", "endless-chain:1", traces=SYNTHETIC_CHAINS) as faulty:
        prompt = await rendered(faulty, "misled")
        whole = await stream(faulty, prompt, max_tokens=3000)
        trial = await probe(faulty, prompt + whole.text + DEER)

    assert (whole.tokens, whole.finish_reason) == (3000, "length")
    assert "boxed" not in whole.text
    assert trial["text"] == "21}.", "as at the token where it began to go round"

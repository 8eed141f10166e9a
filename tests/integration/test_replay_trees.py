"""Trees and rewards over HTTP: a real replay engine, searched by the project's own client, and reward models of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from dynasor_serve.engines.client import CallRequest, Completion, Endpoint, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.replay.records import SamplesRecord, StepsRecord
from dynasor_serve.engines.replay.traces import read_records
from dynasor_serve.engines.replay.tree import Node, build_tree
from dynasor_serve.programs.calls import CallPlan, Judge
from dynasor_serve.programs.query import Branch, Message, Query, RewardParameters, RewardSource
from dynasor_serve.programs.rewards import reward_call

from fakes.replay_process import MODEL, SYNTHETIC_TREES, ReplayProcess, running_replay

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAST = ("--ttft-ms", "0", "--time-per-output-token-ms", "0")
KINDS = {"classify": EngineKind.VLLM_CLASSIFY, "score": EngineKind.VLLM_SCORE, "pooling": EngineKind.VLLM_POOLING}

Run = Callable[..., Awaitable[Completion]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replay() -> AsyncIterator[ReplayProcess]:
    async with running_replay(*FAST, traces=SYNTHETIC_TREES) as running:
        yield running


def marker(question: str) -> str:
    return f"Think step by step. [[trace:synthetic-trees/{question}]]"


def tree_of(question: str) -> Node:
    records = read_records([SYNTHETIC_TREES])
    return next(build_tree(each) for each in records if isinstance(each, StepsRecord) and each.question_id == question)


def paths(node: Node, said: str = "") -> list[tuple[str, Node]]:
    """Every path of a tree, as a program that parts steps by blank lines writes it, with its last node."""
    found = []
    for child in node.children.values():
        path = said + child.text + ("\n\n" if child.children else "")
        found += [(path, child), *paths(child, path)]
    return found


@asynccontextmanager
async def opened(
    replay: ReplayProcess, kind: EngineKind = EngineKind.REPLAY, *, is_chat: bool = True
) -> AsyncIterator[Run]:
    """A function that runs one planned call with the project's own client."""
    client = EngineClient(EngineTimeouts())

    async def run(question: str, plan: CallPlan, call_id: str = "q/0/1.1", prompt: str = "") -> Completion:
        text = prompt or marker(question)
        query = Query(
            model=MODEL,
            rule="even",
            messages=(Message("user", text),) if is_chat else (),
            prompt=None if is_chat else text,
            reward=RewardParameters(source=RewardSource.MODEL, model="judge"),
        )
        request = CallRequest(Endpoint(replay.url, kind), query, plan, Branch(0), call_id)
        completion: Completion = await client.open(request).completion(lambda _: None)
        return completion

    try:
        yield run
    finally:
        await client.close()


def step(path: str = "") -> CallPlan:
    """Asks for one step behind a path, as searches do."""
    return CallPlan(continuation=path, max_tokens=256, stop=("\n\n",), keeps_stop=True)


def judgement(path: str, *, is_complete: bool = False) -> CallPlan:
    return reward_call(RewardParameters(), path, is_complete=is_complete)


# --- searches


@pytest.mark.parametrize("is_chat", [True, False])
async def test_a_search_sees_every_recorded_thought_and_no_other(replay: ReplayProcess, is_chat: bool) -> None:
    root = tree_of("stepwise")
    async with opened(replay, is_chat=is_chat) as run:

        async def explore(path: str, node: Node) -> None:
            children = list(node.children.values())
            if not children:
                return
            wide = [await run("stepwise", step(path), f"q/{branch}/1.1") for branch in range(2 * len(children))]
            for completion, child in zip(wide, children * 2, strict=True):
                inner = bool(child.children)
                assert completion.text == child.text + ("\n\n" if inner else "")
                assert completion.stopped_at == ("\n\n" if inner else None)
                assert completion.finish_reason == "stop"
            for completion, child in zip(wide, children, strict=False):
                await explore(path + completion.text, child)

        await explore("", root)


async def test_token_counts_are_the_recorded_ones(replay: ReplayProcess) -> None:
    body = {"model": MODEL, "max_tokens": 99, "stop": ["\n"]}

    tokens = []
    for path in ("", "\n6 * 8 = 48 (left: 4 6 48)\n", "\n6 * 8 = 48 (left: 4 6 48)\n6 - 4 = 2 (left: 2 48)\n"):
        async with replay.http.post(
            "/v1/completions", json=body | {"prompt": marker("game24-paths") + path}
        ) as response:
            answer = await response.json()
            tokens.append(answer["usage"]["completion_tokens"])

    assert tokens == [17, 33 - 17, 48 - 33]


async def test_calls_without_a_branch_get_the_thoughts_of_a_place_in_turn(replay: ReplayProcess) -> None:
    body = {"model": MODEL, "prompt": marker("lines"), "max_tokens": 99, "stop": ["\n\n"], "n": 2}

    async with replay.http.post("/v1/completions", json=body) as response:
        texts = [choice["text"] for choice in (await response.json())["choices"]]

    assert texts == ["Let x be the number.\nThen 2x = 10.", "Let x be the number."]


async def test_every_path_is_judged_by_the_model_itself_as_recorded(replay: ReplayProcess) -> None:
    async with opened(replay) as run:
        for question in ("game24-paths", "stepwise", "lines", "narrow"):
            for path, node in paths(tree_of(question)):
                judged = await run(question, judgement(path, is_complete=not node.children), "q/9/1.1")
                wanted = 0.5 if node.reward is None else node.reward
                assert judged.reward == pytest.approx(wanted, abs=1e-9), f"{question}: {path!r}"


async def test_a_path_that_nobody_recorded_is_refused(replay: ReplayProcess) -> None:
    async with opened(replay) as run:
        with pytest.raises(EngineError) as raised:
            await run("stepwise", step("Nobody thought this.\n\n"))

    assert raised.value.reason is EngineReason.PROMPT_NOT_RECORDED
    assert not raised.value.is_retryable


# --- reward models


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_reward_model_gives_the_same_recorded_values(kind: str) -> None:
    flags = (*FAST, "--reward", kind, "--served-model-name", "judge")
    async with running_replay(*flags, traces=SYNTHETIC_TREES) as pool:
        for is_chat in (True, False):
            async with opened(pool, KINDS[kind], is_chat=is_chat) as run:
                for question in ("game24-paths", "stepwise", "narrow"):
                    for path, node in paths(tree_of(question)):
                        judged = await run(question, CallPlan(continuation=path, judge=Judge.MODEL, max_tokens=1))
                        wanted = 0.5 if node.reward is None else node.reward
                        assert judged.reward == pytest.approx(wanted, abs=1e-9), f"{question}: {path!r}"


async def test_a_reward_model_has_its_own_endpoints_and_generates_nothing() -> None:
    paths = ("/classify", "/score", "/pooling", "/v1/completions", "/v1/chat/completions", "/tokenize")
    expected = {
        "classify": {"/classify", "/pooling", "/tokenize"},
        "score": {"/classify", "/score", "/pooling", "/tokenize"},
        "pooling": {"/pooling", "/tokenize"},
    }
    for kind, served in expected.items():
        async with running_replay(*FAST, "--reward", kind, traces=SYNTHETIC_TREES) as pool:
            statuses = {}
            for path in paths:
                async with pool.http.post(path, json={}) as response:
                    statuses[path] = response.status
            assert {path for path, status in statuses.items() if status == 400} == served, kind
            assert {statuses[path] for path in set(paths) - served} == {404}, kind


async def test_a_process_reward_model_scores_each_step() -> None:
    path = "The train runs 3 hours at 4 miles an hour.\n\nSo it runs 3 * 4 = 12 miles.\n\n"
    chat = [{"role": "user", "content": marker("stepwise")}, {"role": "assistant", "content": path}]
    async with running_replay(*FAST, "--reward", "pooling", traces=SYNTHETIC_TREES) as pool:
        async with pool.http.post("/pooling", json={"messages": chat}) as response:
            reply = await response.json()
        async with pool.http.post("/pooling", json={"input": [marker("stepwise"), "nothing"]}) as response:
            assert response.status == 404
            assert "[[trace:synthetic-trees/" in (await response.json())["error"]["message"]

    assert reply["data"] == [{"index": 0, "object": "pooling", "data": [[0.9], [0.95]]}]
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0


async def test_rewards_of_samples_are_told_by_both_faces(tmp_path: Path) -> None:
    rewards = [0.25, None, 0.75]
    samples = [{"answer": "7", "correct": True, "tokens": 40} | ({"reward": r} if r else {}) for r in rewards]
    fields = {"dataset": "d", "model": MODEL, "question_id": "q", "gold": "7", "tokens_kind": "exact"}
    traces = tmp_path / "samples.jsonl"
    traces.write_text(json.dumps(fields | {"samples": samples}) + "\n")
    async with running_replay(*FAST, traces=traces) as replay, opened(replay) as run:
        texts = [(await run("", step(), f"q/{branch}/1.1", "[[trace:d/q]]")).text for branch in range(3)]
        own = [(await run("", judgement(text), "q/9/1.1", "[[trace:d/q]]")).reward for text in texts]
    async with running_replay(*FAST, "--reward", "score", traces=traces) as pool:
        body = {"text_1": "[[trace:d/q]]", "text_2": [text[:60] for text in texts]}
        async with pool.http.post("/score", json=body) as response:
            modelled = [item["score"] for item in (await response.json())["data"]]

    assert own == pytest.approx([0.25, 0.5, 0.75])
    assert modelled == [0.25, 0.5, 0.75]


async def test_a_reward_model_waits_for_places_like_any_engine() -> None:
    flags = (*FAST, "--max-num-seqs", "1", "--reward", "classify", "--fault", "hang-reward:1")
    async with running_replay(*flags, traces=SYNTHETIC_TREES) as pool:
        body = {"input": marker("narrow")}
        asking = [asyncio.create_task(pool.http.post("/classify", json=body).__aenter__()) for _ in range(3)]
        while await pool.metric("vllm:num_requests_waiting") < 2:  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(0.01)
        assert await pool.metric("vllm:num_requests_running") == 1
        for call in asking:
            call.cancel()
        while await pool.metric("vllm:num_requests_waiting") > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with running_replay(*FAST, "--reward", "classify", traces=SYNTHETIC_TREES) as pool:
        async with pool.http.post("/classify", json={"input": [marker("narrow")] * 3}) as response:
            assert len((await response.json())["data"]) == 3
        assert await pool.metric("vllm:request_success_total", finished_reason="stop") == 3


# --- faults


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_reward_that_is_none_fails_the_call(kind: str) -> None:
    faults = ("--fault", "nan-reward:0.5", "wild-reward:0.5")
    flags = (*FAST, "--reward", kind, *faults, "--served-model-name", "judge")
    complaints = set()
    async with running_replay(*flags, traces=SYNTHETIC_TREES) as pool, opened(pool, KINDS[kind]) as run:
        plan = CallPlan(continuation="First.\n\n", judge=Judge.MODEL, max_tokens=1)
        for number in range(12):
            with pytest.raises(EngineError, match="gives no reward") as raised:
                await run("narrow", plan, f"q/{number}/1.1")
            assert raised.value.reason is EngineReason.REWARD_INVALID
            complaints.add("nan" in str(raised.value))

    assert complaints == {True, False}, "no number, and one that is no probability"


async def test_a_judgement_of_the_models_own_may_be_no_json_and_a_thought_beside_it_is_well() -> None:
    async with (
        running_replay(*FAST, "--fault", "nan-reward:1", traces=SYNTHETIC_TREES) as faulty,
        opened(faulty) as run,
    ):
        thought = await run("narrow", step())
        with pytest.raises(EngineError) as raised:
            await run("narrow", judgement(thought.text))

    assert thought.text == "First.\n\n"
    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


async def test_a_judgement_of_the_models_own_may_have_log_probabilities_above_0() -> None:
    async with (
        running_replay(*FAST, "--fault", "wild-reward:1", traces=SYNTHETIC_TREES) as faulty,
        opened(faulty) as run,
    ):
        suffix = judgement("").suffix
        body = {"model": MODEL, "prompt": marker("narrow") + "First." + suffix, "max_tokens": 1, "logprobs": 20}
        async with faulty.http.post("/v1/completions", json=body) as response:
            choice = (await response.json())["choices"][0]
        with pytest.raises(EngineError) as raised:
            await run("narrow", judgement("First.\n\n"))

    assert max(choice["logprobs"]["top_logprobs"][0].values()) > 0
    assert len(choice["logprobs"]["top_logprobs"][0]) == 20
    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


@pytest.mark.parametrize("flags", [(), ("--reward", "classify")])
async def test_a_reward_may_hang_until_its_client_gives_up(flags: tuple[str, ...]) -> None:
    async with running_replay(*FAST, *flags, "--fault", "hang-reward:1", traces=SYNTHETIC_TREES) as faulty:
        judged = marker("narrow") + "First." + judgement("").suffix
        path = "/classify" if flags else "/v1/completions"
        body = {"input": marker("narrow")} if flags else {"model": MODEL, "prompt": judged, "max_tokens": 1}
        call = asyncio.create_task(faulty.http.post(path, json=body).__aenter__())
        while await faulty.metric("vllm:num_requests_running") < 1:  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(0.01)
        assert not call.done()
        call.cancel()
        while await faulty.metric("vllm:num_requests_running") > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --- every kind at once


async def test_one_directory_may_hold_every_kind_of_record() -> None:
    directory = SYNTHETIC_TREES.parent
    kinds = {type(record) for record in read_records([directory])}
    assert {SamplesRecord, StepsRecord} < kinds
    async with running_replay(*FAST, traces=directory) as replay, opened(replay) as run:
        thought = await run("narrow", step())
        sample = await run("", step(), "q/0/1.1", "[[trace:synthetic/q00]]")
        chain = await run("", CallPlan(max_tokens=4096), "q/0/1.1", "[[trace:synthetic-chains/misled]]")

    assert thought.text == "First.\n\n"
    assert sample.text.endswith("\\boxed{3}.")
    assert chain.text.endswith("\\boxed{12}.")

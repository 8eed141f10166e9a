"""What a client may get wrong: each refusal is typed, names the field, and says what would be right."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import reason_of
from dynasor_serve.rpc.server import MAX_MESSAGE_BYTES
from dynasor_serve.state import keys

from fakes.running_stack import PATIENCE_SECONDS, RunningStack, asking, final_of, outcome_of, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

Change = Callable[[pb.Query], object]


def chat(*turns: tuple[str, str]) -> pb.Chat:
    return pb.Chat(messages=[pb.ChatMessage(role=role, content=content) for role, content in turns])


def set_chat(query: pb.Query, *turns: tuple[str, str]) -> None:
    query.chat.CopyFrom(chat(*turns))


def set_algorithm(query: pb.Query, **parameters: int) -> None:
    query.algorithm.self_consistency.CopyFrom(pb.SelfConsistency(**parameters))


def set_rule(query: pb.Query, rule: str) -> None:
    query.policy.rule = rule


def set_sampling(query: pb.Query, **parameters: Any) -> None:
    query.sampling.CopyFrom(pb.SamplingParameters(**parameters))


def set_verifier(query: pb.Query, verifier: str, task: str) -> None:
    query.algorithm.type_string = "best-of-n"
    query.reward.CopyFrom(pb.Reward(source="verifier", verifier=verifier, task=task))


def set_deadline(query: pb.Query, seconds: int, nanos: int = 0) -> None:
    query.deadline.seconds, query.deadline.nanos = seconds, nanos


def field_of(error: grpc.aio.AioRpcError) -> str:
    """The field that a refusal is about."""
    metadata = dict(error.trailing_metadata() or ())
    status = Status.FromString(bytes(metadata["grpc-status-details-bin"]))
    violations = BadRequest()
    for detail in status.details:
        if detail.Unpack(violations):
            return str(violations.field_violations[0].field)
    return ""


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def nothing_is_left(stack: RunningStack) -> AsyncIterator[None]:
    """After all refusals the gateway still answers, no query is accounted for and no call runs."""
    yield
    outcome_of(await stack.run(asking("q00", samples=1)))
    live = [await stack.redis.hget(key, "live") async for key in stack.redis.scan_iter("*tenant:*")]
    assert set(live) == {b"0"}
    assert await stack.calls_in_engine() == 0


SAMPLES = "algorithm.max_samples"
WIDTH = "algorithm.width"
INVALID: list[tuple[str, Change, str, str]] = [
    ("no input", lambda query: query.ClearField("chat"), "input", "give a prompt"),
    ("no messages", set_chat, "input", "give a prompt"),
    ("system turns alone", lambda query: set_chat(query, ("system", "Be brief.")), "input", "user"),
    ("empty turn", lambda query: set_chat(query, ("user", "")), "chat.messages[0].content", "is empty"),
    ("blank turn", lambda query: set_chat(query, ("user", "a"), ("user", " \n")), "chat.messages[1].content", "empty"),
    (
        "unknown role",
        lambda query: set_chat(query, ("oracle", "a")),
        "chat.messages[0].role",
        "system, user, assistant",
    ),
    ("empty prompt", lambda query: setattr(query, "prompt", ""), "prompt", "is empty"),
    ("blank prompt", lambda query: setattr(query, "prompt", "\t \n"), "prompt", "is empty"),
    ("huge prompt", lambda query: setattr(query, "prompt", "a" * 1_000_001), "input", "1000000"),
    (
        "system prompt without chat",
        lambda query: query.MergeFrom(pb.Query(prompt="a", system_prompt="b")),
        "system_prompt",
        "chat",
    ),
    (
        "unknown answer type",
        lambda query: setattr(query, "answer_type", "colour"),
        "answer_type",
        "number, choice, math, text",
    ),
    ("no samples", lambda query: set_algorithm(query, max_samples=0), SAMPLES, "at least 1"),
    (
        "negative samples",
        lambda query: set_algorithm(query, max_samples=-5),
        SAMPLES,
        "-5",
    ),
    (
        "too many samples",
        lambda query: set_algorithm(query, max_samples=1025),
        SAMPLES,
        "1024",
    ),
    ("no width", lambda query: set_algorithm(query, width=0), WIDTH, "at least 1"),
    ("negative width", lambda query: set_algorithm(query, width=-1), WIDTH, "at least 1"),
    (
        "temperature is no number",
        lambda query: set_sampling(query, temperature=float("nan")),
        "sampling.temperature",
        "nan",
    ),
    ("endless temperature", lambda query: set_sampling(query, temperature=float("inf")), "sampling.temperature", "inf"),
    ("hot", lambda query: set_sampling(query, temperature=2.5), "sampling.temperature", "from 0 to 2"),
    ("cold", lambda query: set_sampling(query, temperature=-0.1), "sampling.temperature", "from 0 to 2"),
    ("no nucleus", lambda query: set_sampling(query, top_p=0.0), "sampling.top_p", "above 0"),
    ("nucleus is no number", lambda query: set_sampling(query, top_p=math.nan), "sampling.top_p", "above 0"),
    ("negative top_k", lambda query: set_sampling(query, top_k=-1), "sampling.top_k", "0 for all"),
    ("no tokens", lambda query: set_sampling(query, max_tokens=0), "sampling.max_tokens", "at least 1"),
    ("negative tokens", lambda query: set_sampling(query, max_tokens=-1), "sampling.max_tokens", "at least 1"),
    (
        "tokens beyond the context",
        lambda query: set_sampling(query, max_tokens=8192),
        "sampling.max_tokens",
        "8192 tokens",
    ),
    ("nine stop strings", lambda query: set_sampling(query, stop=list("abcdefghi")), "sampling.stop", "at most 8"),
    ("empty stop string", lambda query: set_sampling(query, stop=[""]), "sampling.stop", "empty"),
    ("negative budget", lambda query: setattr(query.budget, "max_tokens", -1), "budget.max_tokens", "positive"),
    ("expired deadline", lambda query: set_deadline(query, -1), "deadline", "has passed"),
    ("deadline now", lambda query: set_deadline(query, 0), "deadline", "has passed"),
    ("deadline in a year", lambda query: set_deadline(query, 365 * 86_400), "deadline", "at most 86400"),
    ("deadline beyond all bounds", lambda query: set_deadline(query, 2**62), "deadline", "at most 86400"),
    ("deadline of mixed signs", lambda query: set_deadline(query, -1, 5), "deadline", "has passed"),
    ("no verifier", lambda query: set_verifier(query, "", ""), "reward.verifier", "give one of game24, unit-tests"),
    ("verifier of another release", lambda query: set_verifier(query, "sudoku", "1"), "reward.verifier", "'sudoku'"),
    ("three numbers", lambda query: set_verifier(query, "game24", "4 9 10"), "reward.task", "four whole numbers"),
    ("no tests", lambda query: set_verifier(query, "unit-tests", ""), "reward.task", "write assert statements"),
    ("broken tests", lambda query: set_verifier(query, "unit-tests", "assert f("), "reward.task", "no Python"),
    ("probed samples", lambda query: setattr(query.probe, "interval", 64), "probe", "give policy.chain_rule"),
    ("unknown class", lambda query: setattr(query, "query_class", 99), "query_class", "interactive"),
    ("long tenant", lambda query: setattr(query, "tenant", "t" * 254), "tenant", "at most 253"),
    ("long key", lambda query: setattr(query, "idempotency_key", "k" * 254), "idempotency_key", "at most 253"),
    ("long model", lambda query: setattr(query, "model", "m" * 254), "model", "at most 253"),
    ("many labels", lambda query: query.labels.update({str(i): "" for i in range(33)}), "labels", "at most 32"),
    ("empty label", lambda query: query.labels.update({"": "a"}), "labels['']", "empty or too long"),
    ("long label", lambda query: query.labels.update({"a": "b" * 254}), "labels['a']", "too long"),
]


@pytest.mark.parametrize(("change", "field", "hint"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID])
async def test_an_invalid_query_is_refused(stack: RunningStack, change: Change, field: str, hint: str) -> None:
    query = asking("q00", samples=1)
    change(query)

    error = await refused(stack.submit(query))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_QUERY"
    assert field_of(error) == field
    assert (error.details() or "").startswith(field)
    assert hint in (error.details() or "")


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("majority-lockd", "did you mean 'majority-locked'"),
        ("certainty", "beta-posterior"),
        ("beta-posterior:confidance=0.9", "did you mean 'confidence'"),
        ("beta-posterior:confidence=1.5", "below 1"),
        ("beta-posterior:confidence=much", "a number above 0.5"),
        ("beta-posterior:confidence", "is not a setting"),
        ("beta-posterior:confidence=0.9,confidence=0.9", "twice"),
        ("static-threshold:detect=2.5", "whole number"),
        ("even:now=1", "no such parameter"),
        ("e" * 300, "256"),
    ],
)
async def test_an_invalid_rule_is_refused(stack: RunningStack, rule: str, hint: str) -> None:
    error = await refused(stack.submit(asking("q00", rule=rule)))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_RULE"
    assert field_of(error).startswith("policy.rule")
    assert hint in (error.details() or "")


@pytest.mark.parametrize(
    ("chain_rule", "field", "hint"),
    [
        ("trial-confidance", "policy.chain_rule", "did you mean 'trial-confidence'"),
        ("trial-confidence:threshold=2", "policy.chain_rule.threshold", "it must be"),
        ("majority-locked", "policy.chain_rule", "rules that fit here"),
        ("e" * 300, "policy.chain_rule", "256"),
    ],
)
async def test_an_invalid_rule_for_chains_is_refused_by_its_own_name(
    stack: RunningStack, chain_rule: str, field: str, hint: str
) -> None:
    error = await refused(stack.submit(asking("q00", policy=pb.Policy(rule="even", chain_rule=chain_rule))))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_RULE"
    assert field_of(error) == field
    assert hint in (error.details() or "")


async def test_an_unknown_model_is_refused_with_those_that_are_served(stack: RunningStack) -> None:
    error = await refused(stack.submit(asking("q00", model="gpt-17")))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(error) == "UNKNOWN_MODEL"
    assert field_of(error) == "model"
    assert "'gpt-17'" in (error.details() or "")
    assert "replay-model" in (error.details() or "")


# --- bytes


FUTURE_FIELD = b"\xa2\x06\x03new"  # number 100, a string
FUTURE_ALGORITHM = b"\x7a\x00"  # number 15 of Algorithm: a kind that this release does not know


def tag(number: int, content: bytes) -> bytes:
    """A field of a nested message or string."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


async def submit_bytes(stack: RunningStack, data: bytes) -> bytes:
    """Submits bytes that no client of this release would write."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    method = stack.channel.unary_unary("/dynasor_serve.api.reasoning.v1.ReasoningService/Submit")
    return await method(data, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (FUTURE_FIELD, "SubmitRequest"),
        (tag(1, tag(2, b"hello") + FUTURE_FIELD), "query"),
        (tag(1, tag(2, b"hello") + tag(7, FUTURE_ALGORITHM)), "query.algorithm"),
        (tag(1, tag(2, b"hello") + tag(7, tag(1, b"\x78\x07"))), "query.algorithm.self_consistency"),
        (tag(1, tag(1, tag(1, tag(2, b"hello") + FUTURE_FIELD))), "query.chat.messages"),
    ],
    ids=["request", "query", "algorithm", "parameter", "message"],
)
async def test_a_field_of_a_newer_release_is_refused_and_not_dropped(
    stack: RunningStack, data: bytes, field: str
) -> None:
    error = await refused(submit_bytes(stack, data))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "UNKNOWN_FIELD"
    assert field_of(error) == field
    assert "unknown field (number" in (error.details() or "")


@pytest.mark.parametrize(
    "data",
    [tag(1, tag(2, b"caf\xe9")), tag(1, tag(12, b"\xff")), b"\xff\xff\xff", b"\x0a\x7f", b"not a message"],
    ids=["prompt in Latin-1", "tenant", "no tag", "cut off", "text"],
)
async def test_what_is_no_message_is_refused(stack: RunningStack, data: bytes) -> None:
    error = await refused(submit_bytes(stack, data))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "MALFORMED_REQUEST"
    assert "UTF-8" in (error.details() or "")


async def test_a_message_beyond_the_limit_is_refused(stack: RunningStack) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(stack.local.gateway, options=options) as channel:
        request = pb.SubmitRequest(query=pb.Query(prompt="a" * (MAX_MESSAGE_BYTES + 1)))

        error = await refused(ReasoningServiceStub(channel).Submit(request, timeout=PATIENCE_SECONDS))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_any_text_is_carried_unchanged(stack: RunningStack) -> None:
    odd = "\x00\x1f\u2028\u202e𝔘nicode ‘☃’ \r\n {braces} %s \\n"
    query = asking("q00", samples=1, tenant=odd, idempotency_key=odd, labels={odd: odd})
    query.chat.messages[0].content += odd

    query_id = await stack.submit(query)
    outcome_of(await stack.watch(query_id))

    state = await stack.get(query_id)
    assert state.query.chat == query.chat
    assert state.query.tenant == odd
    assert dict(state.query.labels) == {odd: odd}
    listed = await stack.stub.List(pb.ListRequest(tenant=odd), timeout=PATIENCE_SECONDS)
    assert [each.query_id for each in listed.states] == [query_id]


# --- ids, pages, sequences


@pytest.mark.parametrize("query_id", ["", "nonsense", "0f-" + "0" * 26, "zz-" + "0" * 26, "0f-" + "0" * 25, "a" * 5000])
async def test_an_unknown_query_is_not_found(stack: RunningStack, query_id: str) -> None:
    for call in (
        stack.get(query_id),
        stack.cancel(query_id),
        stack.watch(query_id),
        stack.watch(query_id, include_text=True),
    ):
        error = await refused(call)

        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert reason_of(error) == "UNKNOWN_QUERY"
        assert field_of(error) == "query_id"
        assert len(error.details() or "") < 200


@pytest.mark.parametrize(
    ("page", "field"),
    [
        (pb.ListRequest(page_size=-1), "page_size"),
        (pb.ListRequest(page_size=201), "page_size"),
        (pb.ListRequest(page_token="-1"), "page_token"),
        (pb.ListRequest(page_token="next"), "page_token"),
        (pb.ListRequest(page_token="9" * 40), "page_token"),
        (pb.ListRequest(page_token="９"), "page_token"),
    ],
    ids=["negative size", "large size", "negative token", "word", "number beyond bounds", "other digits"],
)
async def test_a_page_that_cannot_be_is_refused(stack: RunningStack, page: pb.ListRequest, field: str) -> None:
    error = await refused(stack.stub.List(page, timeout=PATIENCE_SECONDS))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_QUERY"
    assert field_of(error) == field


async def test_a_page_beyond_the_last_is_empty(stack: RunningStack) -> None:
    response = await stack.stub.List(pb.ListRequest(page_token="100000"), timeout=PATIENCE_SECONDS)

    assert not response.states
    assert not response.next_page_token


@pytest.mark.parametrize("first", [-1, 1_000_000])
async def test_a_sequence_that_cannot_be_is_refused(stack: RunningStack, first: int) -> None:
    query_id = await stack.submit(asking("q30", samples=16, width=1))

    error = await refused(stack.watch(query_id, first))
    await stack.cancel(query_id)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_QUERY"
    assert field_of(error) == "from_sequence"
    final_of(await stack.watch(query_id))


async def test_a_long_reason_is_cut(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q30", samples=16, width=1))

    await stack.cancel(query_id, "because " * 1000)

    detail = final_of(await stack.watch(query_id)).outcome.stop_detail
    assert len(detail) == 256


# --- what only the engine can know


async def test_a_prompt_over_the_context_fails_with_the_engines_own_words(stack: RunningStack) -> None:
    query = asking("q00", samples=16)
    query.chat.messages[0].content += " word" * 10_000

    final = final_of(await stack.run(query))

    assert final.phase == pb.QUERY_PHASE_FAILED
    assert final.outcome.error.reason == "PROMPT_TOO_LONG"
    assert "8192 tokens" in final.outcome.error.message
    assert "shorten the prompt" in final.outcome.error.message
    assert not final.outcome.error.retryable
    assert final.outcome.ledger.tokens_spent == 0


async def test_a_prompt_that_was_never_recorded_fails_and_names_some_that_were(stack: RunningStack) -> None:
    query = asking("q00")
    set_chat(query, ("user", "What is the capital of Assyria?"))

    final = final_of(await stack.run(query))

    assert final.phase == pb.QUERY_PHASE_FAILED
    assert final.outcome.error.reason == "PROMPT_NOT_RECORDED"
    assert "synthetic/q" in final.outcome.error.message


async def test_a_seed_that_the_engine_cannot_honour_is_refused(stack: RunningStack) -> None:
    query = asking("q00")
    query.sampling.seed = 7

    final = final_of(await stack.run(query))

    assert final.phase == pb.QUERY_PHASE_FAILED
    assert final.outcome.error.reason == "PARAMETER_UNSUPPORTED"
    assert "leave sampling.seed unset" in final.outcome.error.message


# --- quota


async def test_a_tenant_has_so_many_live_queries_and_no_more(stack: RunningStack) -> None:
    await stack.redis.hset(keys.tenant(keys.shard_of_tenant("full"), "full"), "live", 10_000)

    error = await refused(stack.submit(asking("q00", tenant="full")))
    await stack.redis.hset(keys.tenant(keys.shard_of_tenant("full"), "full"), "live", 0)

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "TENANT_FULL"
    assert "10000 live queries" in (error.details() or "")


async def test_a_hundred_bad_requests_at_once_are_all_refused(stack: RunningStack) -> None:
    async with open_channel(stack.local.gateway) as channel:
        stub = ReasoningServiceStub(channel)
        bad = pb.SubmitRequest(query=asking("q00", samples=0))

        errors = await asyncio.gather(*(refused(stub.Submit(bad, timeout=PATIENCE_SECONDS)) for _ in range(100)))

    assert {reason_of(error) for error in errors} == {"INVALID_QUERY"}

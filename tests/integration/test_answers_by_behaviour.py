"""Programs and free text as answers: from the query through tracker and evaluator to the vote."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.evaluator.behaviour import Behaviour
from dynasor_serve.evaluator.comparisons import CodeComparison, TextComparison
from dynasor_serve.evaluator.equality_pool import Equality
from dynasor_serve.evaluator.sandbox.isolation import IsolationUnavailable, Limits, Sandbox
from dynasor_serve.evaluator.verification_pool import VerificationPool

from fakes.isolation import sandbox
from fakes.running_stack import FAST, RunningStack, outcome_of, refused, running_stack

EQUAL, DIFFERENT, UNDECIDED, NOT_REACHED = Equality

TESTS = "assert total(3) == 6\nassert total(0) == 0\ndef test_large():\n    assert total(1000) == 500500\n"
GAUSS = "def total(n):\n    return n * (n + 1) // 2"
LOOP = "def total(limit):\n    result = 0\n    for k in range(limit + 1):\n        result += k\n    return result"
SUMMED = "def total(n):  # the same\n    return sum(range(n + 1))"
OFF_BY_ONE = "def total(n):\n    return sum(range(n))"
OFF_BY_ONE_TOO = "def total(n):\n    return n * (n - 1) // 2"
SQUARE = "def total(n):\n    return n * n"
ENDLESS = "def total(n):\n    while True:\n        pass"

PROSE = [
    "The war ended because both sides had run out of money.",
    "Because both sides had run out of money, the war ended.",
    "A plague.",
    "the war ended, because both sides had run out of money",
]


def trace(question: str, texts: list[str]) -> str:
    samples = [{"answer": "7", "correct": True, "tokens": 40, "finished": True, "text": text} for text in texts]
    record = {"dataset": "behaviour", "model": "m", "question_id": question, "gold": "7", "tokens_kind": "exact"}
    return json.dumps({**record, "samples": samples})


def in_a_block(code: str) -> str:
    return f"I think this is right:\n```python\n{code}\n```\nIt takes linear time."


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("traces") / "behaviour.jsonl"
    programs = [OFF_BY_ONE, GAUSS, ENDLESS, LOOP, OFF_BY_ONE_TOO, SUMMED]
    path.write_text(trace("total", list(map(in_a_block, programs))) + "\n" + trace("war", PROSE) + "\n")
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(traces: Path) -> AsyncIterator[RunningStack]:
    async with running_stack(*FAST, traces=(traces,), environment={"DYNASOR_EVALUATOR_CANDIDATE_SECONDS": "2"}) as run:
        yield run


def asking(question: str, samples: int, **fields: Any) -> pb.Query:
    return pb.Query(
        prompt=f"Answer. [[trace:behaviour/{question}]]",
        policy=pb.Policy(rule="even"),
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=samples, width=samples)),
        **fields,
    )


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_programs_that_behave_alike_vote_together(stack: RunningStack) -> None:
    sandbox()  # skips where there is none
    outcome = outcome_of(await stack.run(asking("total", 6, answer_type="code", compared_by=TESTS)))
    assert [vote.count for vote in outcome.votes] == [3, 2, 1], outcome.votes
    assert outcome.answer in (GAUSS, LOOP, SUMMED)


@pytest.mark.asyncio(loop_scope="module")
async def test_texts_that_say_the_same_vote_together(stack: RunningStack) -> None:
    outcome = outcome_of(await stack.run(asking("war", 4, answer_type="free-text")))
    assert [vote.count for vote in outcome.votes] == [3, 1], outcome.votes
    strict = asking("war", 4, answer_type="free-text", compared_by="edit-ratio:threshold=0.99")
    assert max(vote.count for vote in outcome_of(await stack.run(strict)).votes) < 3


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("answer_type", "compared_by", "message"),
    [
        ("code", "", "compared_by"),
        ("code", "assert (", "compared_by"),
        ("free-text", "telepathy", "token-set"),
        ("free-text", "token-set:threshold=2", "at most 1"),
        ("math", TESTS, "leave it out"),
    ],
)
async def test_what_nothing_can_be_compared_by_is_refused(
    stack: RunningStack, answer_type: str, compared_by: str, message: str
) -> None:
    error = await refused(stack.run(asking("war", 2, answer_type=answer_type, compared_by=compared_by)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(error.details())


@pytest.mark.asyncio
async def test_programs_are_compared_test_by_test() -> None:
    pool = VerificationPool(Behaviour(sandbox(seconds=3.0)), workers=2)
    await pool.start()
    try:
        pairs = [
            (GAUSS, SUMMED),
            (OFF_BY_ONE, OFF_BY_ONE_TOO),  # wrong in the same way
            (OFF_BY_ONE, SQUARE),  # both fail the same tests, with other values
            (GAUSS, OFF_BY_ONE),
            (ENDLESS, ENDLESS + "\n"),  # does not come to an end: nobody knows what it would do
            ("total = 1 / 0", "raise SystemExit(0)"),  # cannot be loaded
            ("def total(n):\n    return {'a', 'b', 'c'}", "def total(n):\n    return set('cab')"),
            ("def total(n):\n    return object()", "def total(n):\n    return object( )"),
        ]
        expected = [EQUAL, EQUAL, DIFFERENT, DIFFERENT, UNDECIDED, UNDECIDED, EQUAL, EQUAL]
        comparison = CodeComparison(pool)
        assert await comparison.decide(pairs, TESTS) == expected
        assert await comparison.decide([pairs[0]], "assert other(", within_seconds=5.0) == [UNDECIDED]
        assert await comparison.decide([(GAUSS, "def total(n):\n    return 7")], TESTS, within_seconds=0.0) == [
            NOT_REACHED
        ]
    finally:
        await pool.close()


@pytest.mark.asyncio
async def test_without_a_sandbox_programs_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Sandbox) -> None:
        raise IsolationUnavailable("user namespaces", "allow them")

    monkeypatch.setattr(Sandbox, "inspect", refuse)
    pool = VerificationPool(Behaviour(Sandbox(Limits())), workers=1)
    await pool.start()
    try:
        assert await CodeComparison(pool).decide([(GAUSS, SUMMED)], TESTS) == [UNDECIDED]
    finally:
        await pool.close()


@pytest.mark.asyncio
async def test_texts_are_compared_by_the_similarity_that_is_asked_for() -> None:
    texts = TextComparison()
    pairs = [("red and blue", "blue and red"), ("the eiffel tower", "the eifel tower"), ("red", "blue")]
    assert await texts.decide(pairs, "") == [EQUAL, DIFFERENT, DIFFERENT]
    assert await texts.decide(pairs, "edit-ratio:threshold=0.9") == [DIFFERENT, EQUAL, DIFFERENT]
    assert await texts.decide(pairs, "not-installed-here") == [UNDECIDED] * 3
    assert await texts.decide(pairs, "", within_seconds=-1.0) == [NOT_REACHED] * 3

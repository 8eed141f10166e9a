"""Three times as much as the system can do, on the real processes with few places and slow tokens.

What is accepted ends, with an answer or at its deadline with the best so far; the rest is refused at once with a reason
and a time; urgent queries pass a backlog; large programs and small ones let each other through.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.programs.query import QueryClass
from dynasor_serve.rpc.errors import reason_of, retry_after_of

from fakes.running_stack import RunningStack, asking, final_of, outcome_of, refused, running_stack, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PLACES = 4  # of the engine
POOL = 20  # live programs
BATCH_OF_POOL = 16  # without what is kept for more urgent classes
#: A sample of 40 to 400 tokens takes 0.04 to 0.4 s.
SLOWLY = ("--ttft-ms", "5", "--time-per-output-token-ms", "1", "--stream-interval", "8")
SETTINGS = {
    "DYNASOR_GATEWAY_LIVE_PROGRAMS_PER_POOL": str(POOL),
    "DYNASOR_GATEWAY_POOL_REFRESH_SECONDS": "0.2",
    "DYNASOR_GATEWAY_TENANT_TOKEN_BUDGETS": json.dumps({"poor": 1000}),
    "DYNASOR_GATEWAY_TOKEN_BUDGET_WINDOW_SECONDS": str(31 * 24 * 3600),
}
BATCH, STANDARD, INTERACTIVE = pb.QUERY_CLASS_BATCH, pb.QUERY_CLASS_STANDARD, pb.QUERY_CLASS_INTERACTIVE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    async with running_stack(*SLOWLY, max_in_flight=PLACES, environment=SETTINGS) as running:
        yield running


async def offered(stack: RunningStack, *queries: pb.Query) -> tuple[list[str], list[grpc.aio.AioRpcError]]:
    """Asks all at once. Returns the ids of what was accepted, and why the rest was not."""
    results = await asyncio.gather(*map(stack.submit, queries), return_exceptions=True)
    accepted = [result for result in results if isinstance(result, str)]
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert len(accepted) + len(errors) == len(queries), results
    return accepted, errors


async def full_house(stack: RunningStack, query: pb.Query) -> list[str]:
    """As many batch queries as the pool takes; those that have just ended elsewhere may count for a moment."""
    ids: list[str] = []

    async def is_full() -> bool:
        ids.extend((await offered(stack, *[query] * POOL))[0])
        return len(ids) == BATCH_OF_POOL

    await until(is_full, what="a full house")
    return ids


async def live(stack: RunningStack, query_ids: list[str]) -> set[str]:
    states = await asyncio.gather(*map(stack.get, query_ids))
    return {state.query_id for state in states if not state.HasField("outcome")}


async def until_final(stack: RunningStack, query_ids: list[str]) -> None:
    async def is_so() -> bool:
        return not await live(stack, query_ids)

    await until(is_so, within_seconds=90, what="the end of all queries")


async def emptied(stack: RunningStack, query_ids: list[str]) -> None:
    """Ends what a test has left."""
    await asyncio.gather(*map(stack.cancel, query_ids))
    await until_final(stack, query_ids)


async def test_three_times_the_capacity_is_accepted_as_far_as_it_fits_and_nothing_accepted_is_lost(
    stack: RunningStack,
) -> None:
    queries = [asking(f"q{number % 40:02}", samples=3, width=3, query_class=BATCH) for number in range(3 * POOL)]

    accepted, errors = await offered(stack, *queries)

    assert len(accepted) == BATCH_OF_POOL
    assert Counter(map(reason_of, errors)) == {"POOL_FULL": len(queries) - BATCH_OF_POOL}
    for error in errors:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 1.0 <= (retry_after_of(error) or 0.0) <= 300.0
        assert "at most 16 while another of the class batch is accepted (of 20 in all)" in (error.details() or "")
    outcomes = [outcome_of(await stack.watch(query_id)) for query_id in accepted]
    assert all(outcome.samples == 3 for outcome in outcomes)

    async def is_empty() -> bool:
        ids, _ = await offered(stack, *queries[:POOL])
        await emptied(stack, ids)
        return len(ids) == BATCH_OF_POOL

    await until(is_empty, what="room for as many as before")


async def test_an_urgent_query_passes_a_full_house_of_the_others(stack: RunningStack) -> None:
    backlog = await full_house(stack, asking("q01", samples=512, width=4, query_class=BATCH))
    assert reason_of(await refused(stack.submit(asking("q02", query_class=BATCH)))) == "POOL_FULL"
    await stack.until_seen(backlog[0], "claimed")

    outcomes = [
        outcome_of(await stack.run(asking("q03", samples=4, query_class=query_class)))
        for query_class in (INTERACTIVE, STANDARD, INTERACTIVE)
    ]

    assert [outcome.samples for outcome in outcomes] == [4, 4, 4]
    assert len(await live(stack, backlog)) >= BATCH_OF_POOL - 2, "the backlog was still there"
    await emptied(stack, backlog)


async def test_a_backlog_is_served_beside_a_stream_of_urgent_queries(stack: RunningStack) -> None:
    """The trickle: batch is last, and not never."""
    (batch,), _ = await offered(stack, asking("q04", samples=4, width=1, query_class=BATCH))
    is_over = asyncio.Event()

    async def urgent(number: int) -> int:
        asked = 0
        while not is_over.is_set():
            outcome_of(await stack.run(asking(f"q{10 + number:02}", samples=4, query_class=INTERACTIVE)))
            asked += 1
        return asked

    streams = [asyncio.create_task(urgent(number)) for number in range(2 * PLACES)]
    await until_final(stack, [batch])
    is_over.set()

    assert sum(await asyncio.gather(*streams)) > 2 * PLACES
    assert outcome_of(await stack.watch(batch)).samples == 4


async def test_a_large_program_and_a_stream_of_small_ones_let_each_other_through(stack: RunningStack) -> None:
    (large,), _ = await offered(stack, asking("q05", samples=64, width=64))
    await stack.until_seen(large, "sample_finished")

    async def small(number: int) -> int:
        ended = 0
        while await live(stack, [large]):
            outcome_of(await stack.run(asking(f"q{20 + number:02}", samples=1)))
            ended += bool(await live(stack, [large]))
        return ended

    ended_before = sum(await asyncio.gather(*(small(number) for number in range(PLACES + 1))))

    assert ended_before >= 2 * PLACES, "small ones wait for the large one"
    assert outcome_of(await stack.watch(large)).samples == 64, "the large one came to its end beside them"


async def test_what_was_accepted_ends_at_its_deadline_with_the_best_answer_so_far(stack: RunningStack) -> None:
    queries = [asking("q06", samples=64, width=8) for _ in range(8)]
    for query in queries:
        query.deadline.FromSeconds(4)

    accepted, errors = await offered(stack, *queries)

    assert {reason_of(error) for error in errors} <= {"DEADLINE_UNREACHABLE"}
    finals = [final_of(await stack.watch(query_id)) for query_id in accepted]
    ended = Counter(final.outcome.stop_reason for final in finals)
    assert ended["stop-deadline"] > 0
    assert set(ended) <= {"stop-deadline", "cap"}
    for final in finals:
        if final.phase == pb.QUERY_PHASE_FAILED:
            assert (final.outcome.error.reason, final.outcome.samples) == ("DEADLINE_EXCEEDED", 0)
        else:
            assert (final.phase, bool(final.outcome.answer)) == (pb.QUERY_PHASE_SUCCEEDED, True)
    assert any(final.phase == pb.QUERY_PHASE_SUCCEEDED for final in finals)


async def test_what_cannot_end_in_time_is_refused_and_told_when_it_could(stack: RunningStack) -> None:
    backlog, _ = await offered(stack, *[asking("q07", samples=512, width=4)] * (POOL // 2))
    hasty = asking("q08", samples=1)
    hasty.deadline.FromSeconds(5)
    errors: list[grpc.aio.AioRpcError] = []

    async def is_refused() -> bool:  # once the scheduler has measured what the pool can
        ids, found = await offered(stack, hasty)
        errors.extend(found)
        await emptied(stack, ids)
        return bool(found)

    await until(is_refused, within_seconds=60, what="a refusal")

    assert reason_of(errors[0]) == "DEADLINE_UNREACHABLE"
    assert 1.0 <= (retry_after_of(errors[0]) or 0.0) <= 300.0
    hasty.query_class = INTERACTIVE
    assert outcome_of(await stack.run(hasty)).samples == 1, "an urgent one is in time"
    await emptied(stack, backlog)


async def test_a_tenant_spends_what_it_may_and_is_told_when_there_is_more(stack: RunningStack) -> None:
    spent, query = 0, asking("q09", samples=4, tenant="poor", query_class=INTERACTIVE)
    while spent < 1000:
        spent += outcome_of(await stack.run(query)).ledger.tokens_spent

    error = await refused(stack.submit(query))

    assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_BUDGET_SPENT")
    assert f"{spent} completion tokens of its 1000 per" in (error.details() or "")
    assert 0 < (retry_after_of(error) or 0) <= 31 * 24 * 3600
    assert outcome_of(await stack.run(asking("q09", samples=1, tenant="rich", query_class=INTERACTIVE))).samples == 1


async def test_the_command_line_comes_back_when_it_was_told_to(stack: RunningStack) -> None:
    backlog = await full_house(stack, asking("q10", samples=512, width=4, query_class=BATCH))
    arguments = (asking("q11").chat.messages[0].content, "--class", QueryClass.BATCH.value, "--max-samples", "1")

    async def started(command: str, *more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dynasor_serve.cli", command, *arguments, *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "DYNASOR_ADDRESS": stack.local.gateway},
        )  # fmt: skip

    impatient = await started("submit", "--patience", "0")
    _, told = await impatient.communicate()
    assert impatient.returncode == 1
    assert b"POOL_FULL: pool " in told

    patient = [await started("submit", "--patience", "60"), await started("run", "--patience", "60")]
    assert patient[0].stderr is not None
    assert b"refused for now (POOL_FULL); asking again in" in await patient[0].stderr.readline()
    await emptied(stack, backlog)

    (query_id, _), (answer, _) = [await process.communicate() for process in patient]
    assert outcome_of(await stack.watch(query_id.decode().strip())).samples == 1
    assert answer
    assert [process.returncode for process in patient] == [0, 0]

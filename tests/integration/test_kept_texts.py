"""What calls have said, in the log: whole where it is evidence, cut where it is only shown, bounded per program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.programs.events import CallFailed, CallFinished, Checkpointed, Claimed, Event
from dynasor_serve.programs.program import fold_log
from dynasor_serve.programs.query import QueryId
from dynasor_serve.state.program_log import ProgramLog

from fakes.replay_process import SYNTHETIC_VOTES
from fakes.running_stack import RunningStack, asking, final_of, outcome_of, running_stack
from fakes.synthetic_chains import CHAINS, TREES, asking_chain, write_wandering_chain

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOWN = 40  # characters of a sample that is only shown
KEPT = 2500  # characters of all calls of a program
LONG_TOKENS = 32_000
#: Chains of some 900 tokens take a second.
STREAMED = ("--ttft-ms", "2", "--time-per-output-token-ms", "1", "--stream-interval", "4")
INSTANT = ("--ttft-ms", "0", "--time-per-output-token-ms", "0.01", "--stream-interval", "64")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[RunningStack]:
    """Keeps little of any text."""
    environment = {
        "DYNASOR_TRACKER_MAX_TEXT_CHARACTERS": str(SHOWN),
        "DYNASOR_TRACKER_MAX_PROGRAM_CHARACTERS": str(KEPT),
        "DYNASOR_TRACKER_LEASE_SECONDS": "4",
    }
    traces = (CHAINS, TREES, SYNTHETIC_VOTES)
    async with running_stack(*STREAMED, trackers=2, environment=environment, traces=traces) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def default(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """As it comes, with a chain of 32,000 tokens to think."""
    trace: Path = tmp_path_factory.mktemp("traces") / "long.jsonl"
    write_wandering_chain(trace, tokens=LONG_TOKENS, interval=4096)
    async with running_stack(*INSTANT, "--max-model-len", "80000", traces=(trace,)) as running:
        yield running


async def events_in_log(stack: RunningStack, query_id: str) -> list[Event]:
    log = ProgramLog(stack.redis, final_ttl_seconds=60)
    return [record.event for record in await log.read(QueryId(query_id))]


def texts_in(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, CallFinished | Checkpointed)]


def failures_in(events: list[Event]) -> list[CallFailed]:
    return [event for event in events if isinstance(event, CallFailed)]


async def seen_to_its_end(stack: RunningStack, query: pb.Query) -> tuple[list[pb.QueryEvent], list[Event]]:
    query_id = await stack.submit(query)
    return await stack.watch(query_id), await events_in_log(stack, query_id)


def searching(algorithm: str) -> pb.Query:
    return asking_chain(
        "synthetic-trees/stepwise",
        algorithm,
        rule="even",
        answer_type="number",
        sampling=pb.SamplingParameters(max_tokens=600),
    )


# --- which texts are whole


async def test_a_sample_that_is_only_shown_is_cut(narrow: RunningStack) -> None:
    seen, events = await seen_to_its_end(narrow, asking("q20", samples=4))

    assert outcome_of(seen).samples == 4
    assert [len(text) for text in texts_in(events)] == [SHOWN] * 4


@pytest.mark.parametrize(
    "algorithm", ["best-of-n:max_samples=4", "iterative-cot:max_rounds=3", "rebase:width=4", "mcts:rollouts=4"]
)
async def test_a_text_that_is_judged_or_gone_on_from_is_whole(narrow: RunningStack, algorithm: str) -> None:
    seen, events = await seen_to_its_end(narrow, searching(algorithm))

    assert outcome_of(seen).answer
    assert max(map(len, texts_in(events))) > SHOWN, "every text ends where a shown one would"
    assert failures_in(events) == []


@pytest.mark.parametrize(
    "algorithm",
    ["chain-of-thought", "best-of-n:max_samples=2", "iterative-cot:max_rounds=2", "self-consistency:max_samples=2"],
)
async def test_a_chain_of_32000_tokens_is_kept_whole(default: RunningStack, algorithm: str) -> None:
    is_voted = algorithm.startswith("self-consistency")
    query = asking_chain(
        "wandering",
        algorithm,
        rule="" if algorithm == "chain-of-thought" else "even",
        chain_rule="consensus-window:window=64,interval=4096" if is_voted else "",
        sampling=pb.SamplingParameters(max_tokens=LONG_TOKENS + 1000),
    )
    seen, events = await seen_to_its_end(default, query)

    assert outcome_of(seen).answer == "7"
    assert failures_in(events) == []
    assert len(outcome_of(seen).text) > 65_536
    assert outcome_of(seen).text.rstrip().endswith("7}."), outcome_of(seen).text[-80:]


# --- the bound of a program


async def test_a_chain_that_outgrows_its_program_is_answered_by_its_last_trial(narrow: RunningStack) -> None:
    query = asking_chain("diverging", rule="consensus-window:window=64,interval=64")
    seen, events = await seen_to_its_end(narrow, query)

    (failure,) = failures_in(events)
    assert (failure.error.reason, failure.error.retryable) == ("TEXT_LIMIT", False)
    assert f"{KEPT} characters" in failure.error.message
    assert "max_program_characters" in failure.error.message
    trials = [event.probed.answer for event in seen if event.HasField("probed")]
    assert outcome_of(seen).answer == trials[-1]
    assert KEPT - 600 < sum(map(len, texts_in(events))) <= KEPT


async def test_the_next_owner_knows_what_was_kept_before_it(narrow: RunningStack) -> None:
    query_id = await narrow.submit(asking_chain("diverging", rule="consensus-window:window=64,interval=64"))
    claimed = (await narrow.until_seen(query_id, "claimed")).claimed
    request = pb.WatchRequest(query_id=query_id)
    watch = narrow.stub.Watch(request, timeout=30)
    async for response in watch:
        if response.event.HasField("checkpointed") and response.event.checkpointed.position > 200:
            break
    watch.cancel()
    narrow.kill(claimed.tracker)
    seen = await narrow.watch(query_id)
    events = await events_in_log(narrow, query_id)

    assert sum(isinstance(event, Claimed) for event in events) == 2
    assert [failure.error.reason for failure in failures_in(events)] == ["TEXT_LIMIT"]
    assert outcome_of(seen).answer
    assert sum(map(len, texts_in(events))) <= KEPT
    assert fold_log(events[:-1]).text_characters == sum(map(len, texts_in(events)))


async def test_a_query_without_any_answer_fails_with_what_it_exceeds(narrow: RunningStack) -> None:
    query = asking_chain("diverging", "best-of-n:max_samples=2,width=1", rule="even")
    seen, _ = await seen_to_its_end(narrow, query)

    final = final_of(seen)
    assert final.phase == pb.QUERY_PHASE_FAILED
    assert final.outcome.error.reason == "TEXT_LIMIT"
    assert not final.outcome.error.retryable

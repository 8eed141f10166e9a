"""Best-of-n, refinement and trees through the whole system, whoever judges: the model, a reward model, a verifier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.local.stack import ReplayReward

from fakes.replay_process import SYNTHETIC_VOTES
from fakes.running_stack import (
    FAST,
    RunningStack,
    asking,
    final_of,
    outcome_of,
    refused,
    running_stack,
    until,
)
from fakes.synthetic_chains import TREES, asking_chain

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = (SYNTHETIC_VOTES, TREES)
MOST_AT_ONCE, INTERVAL = 16, 4  # calls, and tokens of a streamed event
ALGORITHMS = ("best-of-n:max_samples=4", "iterative-cot:max_rounds=4", "rebase:width=4", "mcts:rollouts=4,expansions=2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """No reward model is deployed: the model judges itself."""
    async with running_stack(*FAST, traces=FILES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged_stack() -> AsyncIterator[RunningStack]:
    """A reward model is deployed in a pool of its own."""
    async with running_stack(*FAST, traces=FILES, reward=ReplayReward(FILES)) as running:
        yield running


def searching(question: str, algorithm: str, **fields: Any) -> pb.Query:
    """A query over a recorded tree."""
    defaults = {"rule": "even", "answer_type": "number", "sampling": pb.SamplingParameters(max_tokens=600)}
    return asking_chain(f"synthetic-trees/{question}", algorithm, **{**defaults, **fields})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_runs_to_its_cap(stack: RunningStack, algorithm: str) -> None:
    events = await stack.run(searching("stepwise", algorithm))
    outcome = outcome_of(events)
    assert (outcome.samples, outcome.stop_reason) == (4, "cap")
    assert outcome.answer
    rewards = [event.sample_finished.reward for event in events if event.sample_finished.HasField("reward")]
    assert bool(rewards) == ("iterative" not in algorithm)
    assert all(0 <= reward <= 1 for reward in rewards)
    calls = sum(event.sample_finished.tokens for event in events if event.HasField("sample_finished"))
    assert outcome.ledger.tokens_spent == calls, "judging is paid for too"


@pytest.mark.parametrize(("budget", "path"), [(60, 600), (110, 80)])
@pytest.mark.parametrize(
    "algorithm",
    [
        "self-consistency",
        "best-of-n",
        "iterative-cot:max_rounds=16",
        "rebase:step_tokens=80",
        "mcts:expansions=2,step_tokens=80",
    ],
)
async def test_a_budget_never_ends_without_an_answer(
    stack: RunningStack, algorithm: str, budget: int, path: int
) -> None:
    """One call may need all of the first budget; of the second a whole path's tokens are kept."""
    bounds = {"budget": pb.Budget(max_tokens=budget), "sampling": pb.SamplingParameters(max_tokens=path)}

    outcome = outcome_of(await stack.run(searching("stepwise", algorithm, **bounds)))

    assert outcome.answer
    assert outcome.stop_reason == "stop-budget"
    # Each call that runs may bring one more event before the sum is seen, and one before its connection is closed.
    assert outcome.ledger.tokens_spent <= budget + 3 * MOST_AT_ONCE * INTERVAL


@pytest.mark.parametrize("algorithm", ["rebase:width=4", "mcts:rollouts=6,expansions=2"])
async def test_a_tree_finds_what_its_rewards_point_at_and_reads_little_twice(
    stack: RunningStack, algorithm: str
) -> None:
    outcome = outcome_of(await stack.run(searching("stepwise", algorithm)))
    assert outcome.answer == "12", "the path of rewards 0.9 and 0.95"
    assert outcome.ledger.cached_prompt_tokens > 0


async def test_a_rule_stops_a_tree_before_its_cap(stack: RunningStack) -> None:
    rule = "static-threshold:threshold=0.5,detect=2 & reward-threshold:max=0.5,detect=2"
    outcome = outcome_of(await stack.run(searching("stepwise", "mcts:rollouts=16,expansions=2,width=1", rule=rule)))
    assert outcome.stop_reason in ("stop-certain", "cap")
    certain = await stack.run(searching("lines", "mcts:rollouts=16,expansions=2,width=1", rule=rule))
    assert outcome_of(certain).stop_reason == "stop-certain"
    assert outcome_of(certain).samples < 16
    assert outcome_of(certain).answer == "5"


async def test_the_only_reward_model_judges_unasked(judged_stack: RunningStack) -> None:
    reward = judged_stack.local.reward
    assert reward is not None
    query_id = await judged_stack.submit(searching("stepwise", "rebase:width=4"))
    outcome = outcome_of(await judged_stack.watch(query_id))
    assert outcome.answer == "12"
    state = await judged_stack.get(query_id)
    assert (state.query.reward.source, state.query.reward.model) == ("model", reward.model)
    pools = await judged_stack.metrics_of("scheduler")
    assert f'dynasor_scheduler_grants_total{{pool="reward-{reward.model}"}}' in pools


async def test_the_model_may_judge_itself_all_the_same(judged_stack: RunningStack) -> None:
    query = searching("stepwise", "rebase:width=4", reward=pb.Reward(source="own"))
    assert outcome_of(await judged_stack.run(query)).answer == "12"


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (pb.Reward(source="luck"), "give one of own, model, verifier"),
        (pb.Reward(source="model", model="nobody"), "no pool serves the model 'nobody'"),
        (pb.Reward(source="verifier"), "is missing; give one of game24"),
        (pb.Reward(source="verifier", verifier="game42"), "game42"),
    ],
)
async def test_a_wrong_reward_is_refused_by_name(judged_stack: RunningStack, reward: pb.Reward, words: str) -> None:
    error = await refused(judged_stack.submit(searching("stepwise", "rebase", reward=reward)))
    assert words in (error.details() or "")


async def test_rewards_are_refused_where_nothing_is_judged(stack: RunningStack) -> None:
    error = await refused(stack.submit(asking("q00", reward=pb.Reward(source="own"))))
    assert "self-consistency judges no paths" in (error.details() or "")


async def test_a_verifier_judges_candidates(stack: RunningStack) -> None:
    reward = pb.Reward(source="verifier", verifier="game24", task="4 6 6 8")
    events = await stack.run(searching("game24-paths", "best-of-n:max_samples=3", reward=reward, answer_type="text"))
    rewards = [event.rewarded for event in events if event.HasField("rewarded")]
    assert len(rewards) == 3
    assert all(rewarded.reward in (0.0, 1.0) for rewarded in rewards)
    assert all(rewarded.detail for rewarded in rewards)
    assert final_of(events).phase == pb.QUERY_PHASE_SUCCEEDED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def misjudged_stack() -> AsyncIterator[RunningStack]:
    """A reward model of which no reward can be used: some are no numbers, some are none in [0, 1], some are errors."""
    faults = ("--fault", "nan-reward:0.4", "--fault", "wild-reward:0.4", "--fault", "error-500:0.2")
    environment = {"DYNASOR_TRACKER_RETRY_BASE_SECONDS": "0.01"}
    reward = ReplayReward(FILES, flags=faults)
    async with running_stack(*FAST, traces=FILES, reward=reward, environment=environment) as running:
        yield running


@pytest.mark.parametrize("algorithm", ["rebase:width=3", "mcts:rollouts=3,expansions=2", "best-of-n:max_samples=3"])
async def test_rewards_that_cannot_be_had_count_as_nothing(misjudged_stack: RunningStack, algorithm: str) -> None:
    """A tree whose every node scores 0 still answers."""
    events = await misjudged_stack.run(searching("stepwise", algorithm))
    outcome = outcome_of(events)
    assert outcome.samples == 3
    assert outcome.answer
    reasons = {event.call_failed.error.reason for event in events if event.HasField("call_failed")}
    assert "REWARD_INVALID" in reasons
    assert "could not be judged and got reward 0" in outcome.stop_detail

    async def is_quiet() -> bool:
        return await misjudged_stack.calls_in_engine() == 0

    await until(is_quiet, what="the engine's rest")


async def test_a_reward_model_that_hangs_does_not_hang_a_tree() -> None:
    reward = ReplayReward(FILES, flags=("--fault", "hang-reward:1"))
    environment = {"DYNASOR_TRACKER_ENGINE_STALL_SECONDS": "0.2", "DYNASOR_TRACKER_RETRY_BASE_SECONDS": "0.01"}
    async with running_stack(*FAST, traces=FILES, reward=reward, environment=environment) as stack:
        query = searching("narrow", "rebase:width=1,max_depth=3")
        query.deadline.FromSeconds(60)
        final = final_of(await stack.run(query))
        assert final.outcome.stop_reason in ("cap", "stop-deadline")
        assert final.outcome.answer == "3"

"""Chains of thought through the whole system: probed while they stream, stopped, concluded, pruned, voted on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb

from fakes.running_stack import RunningStack, final_of, kinds_of, outcome_of, refused, running_stack, until
from fakes.synthetic_chains import CHAINS, asking_chain

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_64 = "consensus-window:window=3,interval=64"
#: 900 tokens take a second and arrive a few at a time.
STREAMED = ("--ttft-ms", "2", "--time-per-output-token-ms", "1", "--stream-interval", "4")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    async with running_stack(*STREAMED, traces=(CHAINS,)) as running:
        yield running


def probes_of(events: list[pb.QueryEvent]) -> list[pb.Probed]:
    return [event.probed for event in events if event.HasField("probed")]


async def test_a_chain_that_settles_is_cut_off_with_its_answer(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("converging", rule=EVERY_64))
    outcome = outcome_of(events)
    assert (outcome.answer, outcome.stop_reason) == ("204", "stop-certain")
    probes = probes_of(events)
    assert [probe.answer for probe in probes[-3:]] == ["204"] * 3
    assert all(abs(probe.position - 64 * number) < 8 for number, probe in enumerate(probes, start=1))
    ledger = outcome.ledger
    assert ledger.tokens_spent < 912, "the chain alone would have cost 912"
    assert ledger.tokens_probes == sum(probe.tokens for probe in probes)
    assert not ledger.HasField("tokens_saved_estimate")
    assert ledger.cached_prompt_tokens > 0, "probes share the chain's prefix"

    async def is_quiet() -> bool:
        return await stack.calls_in_engine() == 0

    await until(is_quiet, what="the engine's rest")


async def test_a_chain_that_never_settles_is_answered_by_itself(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("diverging", rule=EVERY_64))
    outcome = outcome_of(events)
    assert (outcome.answer, outcome.stop_reason, outcome.samples) == ("4211", "cap", 1)
    ledger = outcome.ledger
    assert len(probes_of(events)) in (11, 12), "one may run still when the chain ends"
    assert ledger.tokens_spent - ledger.tokens_probes - ledger.tokens_cancelled == 780
    assert outcome.text.rstrip().endswith("\\boxed{4211}.") or "4211" in outcome.text[-40:]


async def test_trial_answers_are_taken_at_marks_with_their_confidence(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("confident", rule="trial-confidence:threshold=0.95,repeats=2"))
    outcome = outcome_of(events)
    assert (outcome.answer, outcome.stop_reason) == ("\\frac{3}{4}", "stop-certain")
    probes = probes_of(events)
    assert all(probe.confidence >= 0.95 for probe in probes[-2:])
    assert probes[0].confidence == pytest.approx(0.41, abs=0.02), "as recorded"
    assert outcome.certaindex >= 0.95


async def test_low_confidence_never_stops(stack: RunningStack) -> None:
    outcome = outcome_of(
        await stack.run(
            asking_chain("doubtful", rule="trial-confidence:threshold=0.95,repeats=1", answer_type="number")
        )
    )
    assert (outcome.answer, outcome.stop_reason) == ("56", "cap")


async def test_hesitation_never_counts(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("hesitant", rule=EVERY_64))
    outcome = outcome_of(events)
    assert outcome.answer == "x+1"
    hesitant = [probe.hesitant for probe in probes_of(events)]
    assert hesitant[:9] == [True] * 9
    assert outcome.ledger.tokens_spent > 9 * 64


async def test_empty_trials_never_count(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("speechless", rule="consensus-window:window=2,interval=64"))
    assert [probe.HasField("answer") for probe in probes_of(events)[:2]] == [False, False]
    assert outcome_of(events).answer == "(2, 3)"


async def test_a_chain_that_runs_out_of_tokens_is_asked_for_its_answer(stack: RunningStack) -> None:
    sampling = pb.SamplingParameters(max_tokens=400)
    events = await stack.run(
        asking_chain("diverging", "chain-of-thought:answer_tokens=50", rule="even", sampling=sampling)
    )
    outcome = outcome_of(events)
    assert outcome.answer.startswith("42"), "what it would have said at that position"
    assert kinds_of(events).count("sample_finished") == 2, "the thinking, then the answer"
    assert 350 <= outcome.ledger.tokens_spent <= 400


async def test_a_budget_never_ends_without_an_answer(stack: RunningStack) -> None:
    for tokens in (200, 333):
        outcome = outcome_of(
            await stack.run(asking_chain("diverging", rule=EVERY_64, budget=pb.Budget(max_tokens=tokens)))
        )
        assert outcome.answer.startswith("42")
        assert outcome.ledger.tokens_spent <= tokens + 16, "over by a streaming interval and a probe at most"


async def test_a_budget_of_chains_that_vote_never_ends_without_an_answer(stack: RunningStack) -> None:
    algorithm, budget, width = "self-consistency:max_samples=4,width=3", 400, 3
    query = asking_chain(
        "diverging",
        algorithm,
        rule="even",
        chain_rule="even",
        budget=pb.Budget(max_tokens=budget),
        answer_type="number",
    )
    outcome = outcome_of(await stack.run(query))
    assert outcome.answer[:2] in ("42", "43", "44"), "what the furthest would have said there"
    assert outcome.stop_reason == "stop-budget"
    assert outcome.ledger.tokens_spent <= budget + 3 * width * 4, "over by the streaming intervals of what ran"


async def test_prose_closes_the_thinking(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("converging", "chain-of-thought:prose=1", rule=EVERY_64))
    outcome = outcome_of(events)
    assert (outcome.answer, outcome.stop_reason) == ("204", "stop-certain")
    assert "\\boxed{204}" in outcome.text
    assert "call_cancelled" in kinds_of(events), "the thinking was closed while the program went on"


async def test_long_chains_vote(stack: RunningStack) -> None:
    query = asking_chain(
        "converging", "self-consistency:max_samples=3,width=3", rule="even", chain_rule=EVERY_64, answer_type="number"
    )
    events = await stack.run(query)
    outcome = outcome_of(events)
    assert [(vote.answer, vote.count) for vote in outcome.votes] == [("204", 3)]
    assert outcome.ledger.tokens_spent < 912 + 913 + 914
    assert {probe.branch for probe in probes_of(events)} == {0, 1, 2}


async def test_a_watcher_sees_the_chain_from_its_beginning(stack: RunningStack) -> None:
    events = await stack.run(asking_chain("diverging", rule="even"), include_text=True)
    text = "".join(event.text_delta.text for event in events if event.HasField("text_delta"))
    assert text
    assert outcome_of(events).text.startswith(text[:200])


@pytest.mark.parametrize(
    ("algorithm", "rule", "words"),
    [
        ("chain-of-thought", "beta-posterior", "rules that fit here: even, consensus-window"),
        ("self-consistency", EVERY_64, "watches one chain"),
        ("chain-of-thought:answer_tokens=9999", "even", "answer_tokens"),
        ("tree-of-luck", "even", "there is none called"),
        ("rebase:width=0", "even", "width"),
        ("rebase:breadth=3", "even", "no such parameter"),
        ("mcts:rollouts", "even", "not a setting"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(stack: RunningStack, algorithm: str, rule: str, words: str) -> None:
    error = await refused(stack.submit(asking_chain("converging", algorithm, rule=rule)))
    assert words in (error.details() or "")


async def test_a_chain_rule_is_refused_where_branches_are_no_chains(stack: RunningStack) -> None:
    error = await refused(stack.submit(asking_chain("converging", rule="even", chain_rule=EVERY_64)))
    assert "policy.chain_rule" in (error.details() or "")
    assert final_of(await stack.run(asking_chain("misled", rule="even"))).phase == pb.QUERY_PHASE_SUCCEEDED

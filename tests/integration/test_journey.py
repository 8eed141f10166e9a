"""One query's journey through real processes: gateway, Redis, tracker, scheduler, engine, and back as events."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import groupby, pairwise

import grpc
import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.rpc.errors import reason_of

from fakes.running_stack import (
    PATIENCE_SECONDS,
    RunningStack,
    asking,
    final_of,
    kinds_of,
    outcome_of,
    refused,
    sample,
    until,
)
from fakes.synthetic_votes import recorded

pytestmark = pytest.mark.asyncio(loop_scope="module")


def finished_tokens(events: list[pb.QueryEvent]) -> int:
    return sum(event.sample_finished.tokens for event in events)


async def engine_is_idle(stack: RunningStack) -> bool:
    return await stack.calls_in_engine() == 0


# --- answers and what they cost


async def test_the_majority_of_all_samples_is_the_answer_and_the_ledger_is_exact(stack: RunningStack) -> None:
    question = recorded("q24")

    outcome = outcome_of(await stack.run(asking("q24", samples=16, width=16)))

    votes = {vote.answer or None: vote.count for vote in outcome.votes}
    assert votes == Counter(question.answers)
    assert outcome.answer in question.winners(16)
    assert f"\\boxed{{{outcome.answer}}}" in outcome.text
    assert outcome.samples == 16
    assert outcome.stop_reason == "cap"
    assert outcome.rule == "even"
    assert 0 < outcome.certaindex < 1
    assert outcome.ledger.tokens_spent == sum(question.tokens)
    assert outcome.ledger.tokens_cancelled == outcome.ledger.tokens_lost == 0
    assert outcome.ledger.tokens_saved_estimate == 0
    assert outcome.ledger.prompt_tokens > outcome.ledger.cached_prompt_tokens > 0


@pytest.mark.parametrize("name", ["q00", "q12", "q38"])
async def test_a_rule_that_never_changes_the_answer_never_changes_it(stack: RunningStack, name: str) -> None:
    outcome = outcome_of(await stack.run(asking(name, rule="majority-locked")))

    assert outcome.answer in recorded(name).winners(16)
    assert outcome.stop_reason == "stop-certain"
    assert outcome.samples < 16
    assert outcome.ledger.tokens_saved_estimate > 0


async def test_at_the_verdict_running_siblings_are_cancelled_and_their_tokens_are_booked(stack: RunningStack) -> None:
    cancelled_before = sample(await stack.metrics_of("tracker-0"), "dynasor_tracker_calls_total", outcome="cancelled")

    events = await stack.run(asking("q01", width=12, rule="beta-posterior:confidence=0.95"))

    outcome, ledger = outcome_of(events), outcome_of(events).ledger
    assert outcome.answer == recorded("q01").gold
    assert outcome.stop_reason == "stop-certain"
    assert outcome.samples == len([kind for kind in kinds_of(events) if kind == "sample_finished"])
    assert 4 <= outcome.samples < 12
    assert 0 < ledger.tokens_cancelled <= sum(recorded("q01").tokens)
    assert ledger.tokens_spent == finished_tokens(events) + ledger.tokens_cancelled
    at_the_cap = round(16 * finished_tokens(events) / outcome.samples)
    assert ledger.tokens_saved_estimate == at_the_cap - ledger.tokens_spent
    await until(lambda: engine_is_idle(stack), within_seconds=5, what="the engine's abort of cancelled calls")
    cancelled = sample(await stack.metrics_of("tracker-0"), "dynasor_tracker_calls_total", outcome="cancelled")
    assert cancelled > cancelled_before


async def test_samples_without_an_answer_vote_for_none(stack: RunningStack) -> None:
    question = recorded("q35")
    assert None in question.answers, "the fixture has changed"

    outcome = outcome_of(await stack.run(asking("q35")))

    unanswered = next(vote.count for vote in outcome.votes if not vote.answer)
    assert unanswered == Counter(question.answers)[None]
    assert outcome.answer in question.winners(16)


async def test_the_evaluator_finds_equal_answers_that_are_written_differently(stack: RunningStack) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Expand. [[trace:synthetic/algebra]]")])

    events = await stack.run(asking("q00", samples=5, width=1, chat=chat, answer_type="math"))

    outcome = outcome_of(events)
    assert "answers_compared" in kinds_of(events)
    assert [(vote.answer, vote.count) for vote in outcome.votes] == [("(x+1)^2", 3), ("x^2+1", 2)]


async def test_a_plain_prompt_goes_to_the_engine_as_it_is(stack: RunningStack) -> None:
    query = asking("q04", samples=3)
    query.prompt = recorded("q04").prompt or ""

    outcome = outcome_of(await stack.run(query))

    assert outcome.answer == recorded("q04").gold


async def test_a_system_prompt_goes_before_the_conversation(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q02", samples=1, system_prompt="Answer briefly."))

    outcome_of(await stack.watch(query_id))

    messages = (await stack.get(query_id)).query.chat.messages
    assert [message.role for message in messages] == ["system", "user"]


# --- events


async def test_events_are_numbered_without_gaps_from_acceptance_to_the_final_one(stack: RunningStack) -> None:
    events = await stack.run(asking("q10", samples=6))

    assert [event.sequence for event in events] == list(range(len(events)))
    assert kinds_of(events) == ["accepted", "claimed", *["sample_finished"] * 6, "finished"]
    assert len({event.query_id for event in events}) == 1
    assert [event.sample_finished.samples for event in events[2:-1]] == [1, 2, 3, 4, 5, 6]
    assert events[-2].sample_finished.certaindex == events[-1].finished.outcome.certaindex


async def test_a_watch_goes_on_from_any_sequence(stack: RunningStack) -> None:
    events = await stack.run(asking("q11", samples=5))

    for first in range(len(events) + 1):
        assert await stack.watch(events[0].query_id, first) == events[first:]


async def test_several_watchers_of_a_running_query_see_the_same(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q13", samples=8, width=2))

    early = [asyncio.create_task(stack.watch(query_id)) for _ in range(3)]
    await stack.until_seen(query_id, "sample_finished")
    late = await stack.watch(query_id, 2)

    seen = [await watcher for watcher in early]
    assert seen[0] == seen[1] == seen[2]
    assert late == seen[0][2:]
    final_of(late)


async def test_live_text_arrives_in_order_and_is_what_the_sample_said(stack: RunningStack) -> None:
    events = await stack.run(asking("q20", samples=4, width=1), include_text=True)

    deltas = [event.text_delta for event in events if event.HasField("text_delta")]
    assert deltas, "no live text arrived"
    by_branch = sorted(deltas, key=lambda delta: delta.branch)  # stable: order of arrival within a branch
    texts = {}
    for branch, parts in groupby(by_branch, key=lambda delta: delta.branch):
        pieces = list(parts)
        assert len({piece.attempt for piece in pieces}) == 1
        for piece, following in pairwise(pieces):
            assert following.offset == piece.offset + len(piece.text), f"branch {branch} has a gap"
        texts[branch] = "".join(piece.text for piece in pieces)
    stored = [event for event in events if not event.HasField("text_delta")]
    assert any(outcome_of(stored).text.endswith(text) for text in texts.values())
    assert [event.sequence for event in stored] == list(range(len(stored)))


# --- reading


async def test_get_shows_the_query_with_its_defaults_and_the_outcome(stack: RunningStack) -> None:
    query = pb.Query(chat=asking("q05").chat, answer_type="number", labels={"team": "maths", "run": "7"})

    query_id = await stack.submit(query)
    events = await stack.watch(query_id)
    state = await stack.get(query_id)

    assert state.query_id == query_id
    assert state.phase == pb.QUERY_PHASE_SUCCEEDED
    assert state.outcome == outcome_of(events)
    assert state.last_sequence == events[-1].sequence
    assert state.samples == state.outcome.samples
    assert state.certaindex == state.outcome.certaindex
    assert state.query.model == "replay-model"
    assert state.query.policy.rule == "beta-posterior:confidence=0.95"
    assert state.query.algorithm.self_consistency == pb.SelfConsistency(max_samples=16, width=4)
    assert state.query.sampling.max_tokens == 512
    assert state.query.tenant == "default"
    assert dict(state.query.labels) == {"team": "maths", "run": "7"}


async def test_get_shows_a_running_query(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q30", samples=16, width=1))
    await stack.until_seen(query_id, "sample_finished")

    state = await stack.get(query_id)

    assert state.phase == pb.QUERY_PHASE_RUNNING
    assert 1 <= state.samples < 16
    assert not state.HasField("outcome")
    await stack.cancel(query_id)


async def test_list_shows_a_tenants_queries_newest_first_in_pages(stack: RunningStack) -> None:
    submitted = [await stack.submit(asking("q06", samples=1, tenant="lister")) for _ in range(5)]
    await stack.submit(asking("q06", samples=1, tenant="another"))
    listed, token = [], ""

    while True:
        request = pb.ListRequest(tenant="lister", page_size=2, page_token=token)
        response = await stack.stub.List(request, timeout=PATIENCE_SECONDS)
        assert len(response.states) <= 2
        listed += [state.query_id for state in response.states]
        token = response.next_page_token
        if not token:
            break

    assert listed == submitted[::-1]


# --- idempotency


async def test_the_same_key_finds_the_first_query(stack: RunningStack) -> None:
    query = asking("q07", samples=2, idempotency_key="once", labels={"a": "1", "b": "2"})
    again = asking("q07", samples=2, idempotency_key="once", labels={"b": "2", "a": "1"})

    first = await stack.stub.Submit(pb.SubmitRequest(query=query), timeout=PATIENCE_SECONDS)
    second = await stack.stub.Submit(pb.SubmitRequest(query=again), timeout=PATIENCE_SECONDS)
    events = await stack.run(again)

    assert not first.already_accepted
    assert second.already_accepted
    assert second.query_id == first.query_id == events[0].query_id
    assert kinds_of(events)[0] == "accepted"
    final_of(events)


async def test_the_callers_own_deadline_is_no_part_of_what_is_asked(stack: RunningStack) -> None:
    query = asking("q07", samples=1, idempotency_key="patient")
    request = pb.RunRequest(query=query)

    ids = [
        {response.event.query_id async for response in stack.stub.Run(request, timeout=seconds)} for seconds in (20, 30)
    ]

    assert ids[0] == ids[1]


async def test_the_same_key_with_other_content_is_a_conflict(stack: RunningStack) -> None:
    first = await stack.submit(asking("q07", samples=2, idempotency_key="clash"))

    error = await refused(stack.submit(asking("q07", samples=3, idempotency_key="clash")))

    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(error) == "IDEMPOTENCY_CONFLICT"
    assert first in (error.details() or "")


async def test_keys_belong_to_their_tenant(stack: RunningStack) -> None:
    tenants = ("left", "right", "left:x", "left:x:y")
    keys = ("x:y", "x:y", "y", "")

    ids = [
        await stack.submit(asking("q07", samples=1, tenant=tenant, idempotency_key=key))
        for tenant, key in zip(tenants, keys, strict=True)
    ]

    assert len(set(ids)) == len(ids)


# --- ends before the cap


async def test_cancel_ends_a_query_with_its_best_answer_so_far(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q09", samples=16, width=2))
    await stack.until_seen(query_id, "sample_finished")

    await stack.cancel(query_id, "no longer needed")
    events = await stack.watch(query_id)

    final = final_of(events)
    assert final.phase == pb.QUERY_PHASE_CANCELLED
    assert final.outcome.answer in recorded("q09").answers
    assert final.outcome.stop_reason == "cancelled"
    assert final.outcome.stop_detail == "no longer needed"
    assert final.outcome.ledger.tokens_spent == finished_tokens(events) + final.outcome.ledger.tokens_cancelled
    assert await stack.cancel(query_id, "again") == pb.QUERY_PHASE_CANCELLED
    assert await stack.watch(query_id) == events, "a second cancel changed the log"
    await until(lambda: engine_is_idle(stack), within_seconds=5, what="the engine's abort")


async def test_cancelling_a_finished_query_changes_nothing(stack: RunningStack) -> None:
    events = await stack.run(asking("q00", samples=1))

    assert await stack.cancel(events[0].query_id) == pb.QUERY_PHASE_SUCCEEDED
    assert await stack.watch(events[0].query_id) == events


async def test_at_the_deadline_the_best_answer_so_far_is_the_answer(stack: RunningStack) -> None:
    query = asking("q08", samples=1024, width=4)
    query.deadline.FromMilliseconds(2000)

    events = await stack.run(query)

    outcome = outcome_of(events)
    assert outcome.stop_reason == "stop-deadline"
    assert outcome.answer == recorded("q08").gold
    assert 1 <= outcome.samples < 1024
    assert 2 <= outcome.latency_seconds < 10
    assert "limit_reached" in kinds_of(events)
    await until(lambda: engine_is_idle(stack), within_seconds=5, what="the engine's abort")


async def test_a_deadline_before_any_sample_fails_and_says_what_would_help(stack: RunningStack) -> None:
    query = asking("q08")
    query.deadline.FromMilliseconds(1)

    final = final_of(await stack.run(query))

    assert final.phase == pb.QUERY_PHASE_FAILED
    assert final.outcome.error.reason == "DEADLINE_EXCEEDED"
    assert "longer deadline" in final.outcome.error.message
    assert final.outcome.error.retryable


async def test_the_token_budget_bounds_what_is_spent(stack: RunningStack) -> None:
    budget, width, interval = 400, 4, 4
    query = asking("q00", samples=64, width=width, budget=pb.Budget(max_tokens=budget))

    outcome = outcome_of(await stack.run(query))

    assert outcome.stop_reason == "stop-budget"
    # Each of the running calls may bring one more event before the sum is seen.
    assert budget <= outcome.ledger.tokens_spent <= budget + 3 * width * interval
    assert outcome.answer == recorded("q00").gold

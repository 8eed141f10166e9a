"""A program at its owner and in a real Redis: what is lost with the owner is counted once, whatever was on its way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dynasor_serve.certaindex.rules.rule import VoteRule
from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.engines.client import Endpoint, EngineClient, EngineTimeouts
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.programs.events import (
    Accepted,
    CallFailed,
    CallFinished,
    CancelRequested,
    Claimed,
    Finished,
    Phase,
    ProgramError,
)
from dynasor_serve.programs.ledger import Ledger
from dynasor_serve.programs.program import Directive, Program, directive, fold_log
from dynasor_serve.programs.query import Branch, Query, QueryClass, QueryId, RewardParameters
from dynasor_serve.programs.self_consistency import SelfConsistency
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import Claim, Limits, ProgramLog
from dynasor_serve.state.records import Record, decode, encode
from dynasor_serve.state.redis_client import connect
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.active_scheduler import ActiveScheduler
from dynasor_serve.tracker.clock import unix_ms
from dynasor_serve.tracker.driver import DriverTools, ProgramDriver
from dynasor_serve.tracker.equality import EqualityLink
from dynasor_serve.tracker.gang import GangTools
from dynasor_serve.tracker.granted_call import GrantedCall
from dynasor_serve.tracker.grants import SchedulerLink
from dynasor_serve.tracker.holdings import Holdings
from dynasor_serve.tracker.journal import Fenced, Journal, program_of
from dynasor_serve.tracker.verification import VerifierLink

from fakes.running_stack import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT = "default"
SHARD = keys.shard_of_tenant(TENANT)
AMPLE = Limits(live_queries_per_tenant=1000, queued_programs_per_shard=1000, idempotency_ttl_seconds=60)
NOW_MS = 1_700_000_000_000
QUERY = Query(model="model", rule="even", prompt="What is it?", tenant=TENANT, algorithm="self-consistency")
LEASE_MS = 60_000
MOST, KEPT = 8, 2
"""Programs that holdings have at most, and those of them that only interactive ones may be."""

LOST = ProgramError("ENGINE_BROKE_OFF", "the engine broke the stream off", retryable=True)


@pytest_asyncio.fixture(loop_scope="module")
async def log(redis: Redis) -> ProgramLog:
    return ProgramLog(redis, final_ttl_seconds=60)


async def claim_of(log: ProgramLog, tracker: str, number: int = 0, lease_ms: int = LEASE_MS) -> Claim:
    (claim,) = await log.claim(
        SHARD, tracker=tracker, process="p1", address="", limit=1, lease_ms=lease_ms, number=number
    )
    return claim


async def journal_of(log: ProgramLog, tracker: str = "one", lease_ms: int = LEASE_MS) -> Journal:
    """Of a new program that a tracker has claimed."""
    await log.accept(keys.new_query_id(TENANT), Accepted(QUERY, "pool", NOW_MS), "", AMPLE)
    return journal(log, await claim_of(log, tracker, lease_ms=lease_ms), tracker)


def journal(log: ProgramLog, claim: Claim, tracker: str) -> Journal:
    return Journal(claim, program_of(claim), log, tracker=tracker, metrics=Metrics("tracker"))


@asynccontextmanager
async def tools_of(log: ProgramLog, tracker: str = "one") -> AsyncIterator[DriverTools]:
    """What drivers work with, where neither a scheduler nor an evaluator answers."""
    nobody, metrics = "127.0.0.1:1", Metrics("tracker")
    engines = EngineClient(EngineTimeouts())
    scheduler = SchedulerLink(tracker, ActiveScheduler(connect(f"redis://{nobody}"), "default"))
    yield DriverTools(
        tracker=tracker,
        log=log,
        scheduler=scheduler,
        equality=EqualityLink(nobody),
        verifier=VerifierLink(nobody),
        metrics=metrics,
        gang=GangTools(engines, scheduler, metrics, 1.0, max_text_characters=1, max_program_characters=1),
    )
    await engines.close()


def evidence(branch: int, tokens: int = 10) -> CallFinished:
    return CallFinished(Branch(branch), "1.1", "7", "\\boxed{7}", tokens)


def lost_in(claim: Claim) -> int:
    last = claim.records()[-1].event
    assert isinstance(last, Claimed)
    return last.tokens_lost


# --- what is lost with an owner


async def test_an_append_that_arrives_before_the_release_is_not_lost_too(log: ProgramLog) -> None:
    former = await journal_of(log)
    former.take(evidence(0))
    append = asyncio.create_task(former.write(running_tokens=5, cancelled=()))
    await asyncio.sleep(0)  # it is on its way
    holding = former.holding(running_tokens=5)
    await append
    await log.release(SHARD, "one", [holding])

    claim = await claim_of(log, "two")

    assert lost_in(claim) == 5, "what the running call had generated"
    assert journal(log, claim, "two").program.ledger == Ledger(spent=15, lost=5)


async def test_an_append_that_arrives_after_the_release_is_lost(log: ProgramLog) -> None:
    former = await journal_of(log)
    former.take(evidence(0))
    await log.release(SHARD, "one", [former.holding(running_tokens=5)])
    with pytest.raises(Fenced):
        await former.write(running_tokens=5, cancelled=())

    claim = await claim_of(log, "two")

    assert lost_in(claim) == 15
    assert journal(log, claim, "two").program.ledger == Ledger(spent=15, lost=15)


async def test_a_cancel_between_changes_nothing_of_what_is_lost(log: ProgramLog) -> None:
    former = await journal_of(log)
    former.take(evidence(0))
    holding = former.holding(running_tokens=5)
    await log.cancel(holding.query_id, "", NOW_MS)
    await log.release(SHARD, "one", [holding])

    assert lost_in(await claim_of(log, "two")) == 15


async def test_a_renewal_that_arrives_after_an_append_books_it_no_second_time(log: ProgramLog) -> None:
    former = await journal_of(log, lease_ms=1)
    former.take(evidence(0))
    holding = former.holding(running_tokens=5)
    await former.write(running_tokens=5, cancelled=())
    await log.renew(SHARD, "one", 1, [holding])
    await asyncio.sleep(0.02)  # the tracker is gone, and its lease ends

    assert lost_in(await claim_of(log, "two")) == 5


async def test_what_an_earlier_release_booked_is_known_from_the_log(log: ProgramLog, redis: Redis) -> None:
    former = await journal_of(log)
    former.take(evidence(0))
    await former.write(running_tokens=0, cancelled=())
    await redis.hdel(keys.program(former.query_id), "booked_tokens")
    await log.release(SHARD, "one", [former.holding(running_tokens=5)])

    assert lost_in(await claim_of(log, "two")) == 5


async def test_what_the_verdict_cancelled_is_lost_with_a_final_record_that_was_never_written(log: ProgramLog) -> None:
    await log.accept(keys.new_query_id(TENANT), Accepted(QUERY, "pool", NOW_MS), "", AMPLE)
    claim = await claim_of(log, "one")
    async with tools_of(log) as tools:
        driver = ProgramDriver(claim, program_of(claim), tools, on_end=lambda _: None)
        driver.gang.closed.append((7, 100))

        await log.release(SHARD, "one", [driver.abandon()])

    assert lost_in(await claim_of(log, "two")) == 7


async def test_every_owner_adds_what_it_lost(log: ProgramLog) -> None:
    owner = await journal_of(log)
    for number in range(1, 4):
        owner.take(evidence(number))
        await owner.write(running_tokens=0, cancelled=())
        owner.take(evidence(number + 10))  # and this one is on its way when the owner goes
        holding = owner.holding(running_tokens=2)
        await owner.write(running_tokens=2, cancelled=())
        await log.release(SHARD, "one", [holding])
        owner = journal(log, await claim_of(log, "one", number=number), "one")

    assert owner.program.ledger == Ledger(spent=66, lost=6)


# --- what an owner could not write for a while


async def test_ten_thousand_records_are_appended_at_once(log: ProgramLog) -> None:
    owner = await journal_of(log)
    for number in range(10_000):
        owner.take(CallFailed(Branch(0), f"1.{number}", LOST, tokens=1))
    await owner.write(running_tokens=0, cancelled=())

    assert not owner.has_work
    written = await log.read(owner.query_id)
    assert [record.event.attempt for record in written[2:]] == [f"1.{number}" for number in range(10_000)]  # type: ignore[union-attr]
    assert fold_log(record.event for record in written).ledger == Ledger(spent=10_000, lost=10_000)


async def test_ten_thousand_records_become_durable_with_the_final_one(log: ProgramLog, redis: Redis) -> None:
    owner = await journal_of(log)
    subscription = redis.pubsub(ignore_subscribe_messages=True)
    await subscription.subscribe(keys.appended_channel(SHARD))
    for number in range(10_000):
        owner.take(CallFailed(Branch(0), f"1.{number}", LOST, tokens=1))
    owner.take(CancelRequested())
    outcome = await owner.write(running_tokens=0, cancelled=())

    assert outcome is not None
    assert outcome.ledger.spent == 10_000
    written = await log.read(owner.query_id)
    assert len(written) == 2 + 10_000 + 2
    assert written[-1].event == Finished(outcome)
    notice = await anext(message async for message in subscription.listen() if message is not None)
    first, *lines = notice["data"].split(b"\n")[1:]
    assert (int(first), [decode(line) for line in lines]) == (2, written[2:])
    await subscription.aclose()


# --- rules that fail


class BrokenRule:
    """A rule of somebody's own."""

    token_window = 0

    def verdict(self, votes: Votes) -> Verdict:
        raise ZeroDivisionError("division by zero")


async def test_a_rule_that_fails_drops_its_program_alone(log: ProgramLog) -> None:
    """What tells an event is everybody's: the links to the evaluator, the conversation with the scheduler."""
    await log.accept(keys.new_query_id(TENANT), Accepted(QUERY, "pool", unix_ms()), "", AMPLE)
    claim = await claim_of(log, "one")
    program = program_of(claim)
    assert isinstance(program.algorithm, SelfConsistency)
    broken = replace(program, algorithm=replace(program.algorithm, rule=cast("VoteRule", BrokenRule())))
    ended: list[ProgramDriver] = []
    async with tools_of(log) as tools:
        driver = ProgramDriver(claim, broken, tools, on_end=ended.append)
        driver.start()

        driver.post(evidence(0))

        assert ended == [driver]
        assert driver.is_over


# --- programs with long logs, as they are taken over


class TellingLog(ProgramLog):
    """Tells when a claim's answer is there.

    Attributes:
        claims: programs that were claimed.
    """

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, final_ttl_seconds=60)
        self.claims: asyncio.Queue[Claim] = asyncio.Queue()

    async def claim(self, *args: Any, **fields: Any) -> list[Claim]:
        claims = await super().claim(*args, **fields)
        for claim in claims:
            self.claims.put_nowait(claim)
        return claims


@asynccontextmanager
async def holdings_of(redis: Redis, log: ProgramLog) -> AsyncIterator[tuple[Holdings, asyncio.Task[None]]]:
    """A tracker's holdings, and their loops as one task."""
    async with tools_of(log, "two") as tools:
        holdings = Holdings(
            redis,
            log,
            tools,
            tools.metrics,
            process="p1",
            address=lambda: "",
            max_programs=MOST,
            lease_seconds=60.0,  # so that no renewal tells of a cancel within a test
            claim_interval_seconds=1.0,
            kept_for_interactive=KEPT,
        )
        running = asyncio.create_task(holdings.run())
        try:
            yield holdings, running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_long_log_is_folded_beside_the_loop_and_a_cancel_meanwhile_is_heard(
    redis: Redis, log: ProgramLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def folded_for_long(claim: Claim) -> Program:
        may_end.wait(timeout=5)
        return program_of(claim)

    monkeypatch.setattr("dynasor_serve.tracker.holdings.program_of", folded_for_long)
    monkeypatch.setattr("dynasor_serve.tracker.holdings.FOLDED_AT_ONCE", 0)  # all logs are long
    await log.accept(keys.new_query_id(TENANT), Accepted(QUERY, "pool", unix_ms()), "", AMPLE)
    telling = TellingLog(redis)
    async with holdings_of(redis, telling) as (holdings, _):
        claim = await telling.claims.get()
        assert holdings.driver(claim.query_id) is None, "the loop stood still until the log was folded"
        await log.cancel(claim.query_id, "enough", NOW_MS)
        await asyncio.sleep(0.2)  # until it is heard
        may_end.set()
        async with asyncio.timeout(8.0):
            while not isinstance((await log.read(claim.query_id, -1))[0].event, Finished):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_an_algorithm_that_fails_fails_its_own_program_only(
    redis: Redis, log: ProgramLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package's algorithm can do so after any evidence, and so at the start of a program that is taken over."""

    def broken(program: Program) -> Directive:
        if program.query.prompt == "Break.":
            raise RuntimeError("no such branch")
        return directive(program)

    monkeypatch.setattr("dynasor_serve.tracker.driver.directive", broken)
    queries = [keys.new_query_id(TENANT) for _ in range(3)]
    for query_id, prompt in zip(queries, ("Break.", "What is it?", "Break."), strict=True):
        query = replace(QUERY, prompt=prompt)
        await log.accept(query_id, Accepted(query, "pool", unix_ms()), "", AMPLE)
    async with holdings_of(redis, log) as (holdings, running):

        async def is_so() -> bool:
            return holdings.driver(queries[1]) is not None

        await until(is_so, what="the program that is well")
        assert not running.done()

    for query_id in (queries[0], queries[2]):
        final = (await log.read(query_id, -1))[0].event
        assert isinstance(final, Finished)
        assert final.outcome.error is not None
        assert (final.outcome.error.reason, final.outcome.phase) == ("PROGRAM_UNREADABLE", Phase.FAILED)
        assert "no such branch" in final.outcome.error.message


@pytest.mark.parametrize("is_granted", [True, False])
async def test_an_algorithm_that_fails_later_drops_its_program(
    redis: Redis, log: ProgramLog, monkeypatch: pytest.MonkeyPatch, is_granted: bool
) -> None:
    """Whoever tells it of a grant or an event goes on. Its lease lapses, and who claims it finds out at the start."""
    query_id = keys.new_query_id(TENANT)
    await log.accept(query_id, Accepted(QUERY, "pool", unix_ms()), "", AMPLE)
    async with holdings_of(redis, log) as (holdings, _):

        async def has_driver() -> bool:
            return holdings.driver(query_id) is not None

        await until(has_driver, what="a driver")
        driver = holdings.driver(query_id)
        assert driver is not None

        def broken(program: Program) -> Directive:
            raise RuntimeError("no such branch")

        monkeypatch.setattr("dynasor_serve.tracker.driver.directive", broken)
        driver.post(evidence(0))
        if is_granted:
            endpoint = Endpoint("http://127.0.0.1:1", EngineKind.VLLM)
            holdings.take_grant(GrantedCall(query_id, Branch(1), "1.1", "pool", "worker", endpoint, 0))
        else:
            await asyncio.sleep(0)

        assert driver.is_over
        assert holdings.driver(query_id) is None


async def test_a_tracker_that_is_to_go_folds_no_more_of_what_it_has_claimed(
    redis: Redis, log: ProgramLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four long logs take a minute, which nobody grants it."""
    began, may_end, folded = asyncio.Event(), threading.Event(), 0
    loop = asyncio.get_running_loop()

    def folded_for_long(claim: Claim) -> Program:
        nonlocal folded
        folded += 1
        loop.call_soon_threadsafe(began.set)
        may_end.wait(timeout=5)
        return program_of(claim)

    monkeypatch.setattr("dynasor_serve.tracker.holdings.program_of", folded_for_long)
    monkeypatch.setattr("dynasor_serve.tracker.holdings.FOLDED_AT_ONCE", 0)  # all logs are long
    queries = [keys.new_query_id(TENANT) for _ in range(3)]
    for query_id in queries:
        await log.accept(query_id, Accepted(QUERY, "pool", unix_ms()), "", AMPLE)
    async with holdings_of(redis, log) as (holdings, _):
        await began.wait()
        draining = asyncio.create_task(holdings.drain(0.0))
        await asyncio.sleep(0)
        may_end.set()
        await draining

    assert folded == 1
    entries = [await log.entry(query_id) for query_id in queries]
    assert [entry.phase for entry in entries if entry is not None] == [Phase.QUEUED] * 3


async def test_a_tracker_full_of_a_backlog_keeps_places_for_interactive_programs(redis: Redis, log: ProgramLog) -> None:
    async def accepted(query_class: QueryClass, number: int) -> list[QueryId]:
        queries = [keys.new_query_id(TENANT) for _ in range(number)]
        for query_id in queries:
            query = replace(QUERY, query_class=query_class)
            await log.accept(query_id, Accepted(query, "pool", unix_ms()), "", AMPLE)
        return queries

    backlog = await accepted(QueryClass.BATCH, MOST + 4)
    async with holdings_of(redis, log) as (holdings, _):

        def running(queries: list[QueryId]) -> set[QueryId]:
            return {query_id for query_id in queries if holdings.driver(query_id) is not None}

        async def until_running(queries: list[QueryId], number: int) -> None:
            async def is_so() -> bool:
                return len(running(queries)) == number

            await until(is_so, what=f"{number} of {len(queries)} programs running")

        await until_running(backlog, MOST - KEPT)
        interactive = await accepted(QueryClass.INTERACTIVE, KEPT + 1)
        await until_running(interactive, KEPT)
        former, (waiting,) = running(backlog), set(interactive) - running(interactive)
        assert len(former) == MOST - KEPT

        await log.cancel(running(interactive).pop(), "enough", unix_ms())
        await until_running([waiting], 1)

        for query_id in interactive:
            await log.cancel(query_id, "enough", unix_ms())
        await log.cancel(next(iter(former)), "enough", unix_ms())
        await until_running([each for each in backlog if each not in former], 1)
        await until_running(interactive, 0)
        assert len(running(backlog)) == MOST - KEPT


async def test_a_log_that_means_something_else_here_ends_its_program_alone(redis: Redis, log: ProgramLog) -> None:
    """As that of an earlier release whose tree grew in another order: it tells of a step that was never asked for."""
    query = replace(QUERY, algorithm="rebase:width=2,max_depth=3", reward=RewardParameters())
    query_id = keys.new_query_id(TENANT)
    await log.accept(query_id, Accepted(query, "pool", NOW_MS), "", AMPLE)
    await redis.rpush(keys.log(query_id), encode(Record(evidence(5), NOW_MS)))

    async with holdings_of(redis, log) as (_, running), asyncio.timeout(8.0):
        while not running.done() and not isinstance((await log.read(query_id, -1))[0].event, Finished):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert not running.done(), "one program ends the claims of all"

    final = (await log.read(query_id, -1))[0].event
    assert isinstance(final, Finished)
    assert final.outcome.error is not None
    assert final.outcome.error.reason == "PROGRAM_UNREADABLE"

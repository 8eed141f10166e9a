"""Batches with a real Redis and real gRPC: what is bounded, what waits, and what goes on without the caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dynasor_serve.gateway.admission import Admission, AdmissionRules
from dynasor_serve.gateway.batches import Batches, Ended, Entry
from dynasor_serve.gateway.follower import LogFollower
from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.gateway.pool_directory import PoolDirectory
from dynasor_serve.gateway.queries import Queries
from dynasor_serve.programs.events import Phase
from dynasor_serve.programs.query import Query, QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import ProgramLog, Snapshot
from dynasor_serve.state.redis_client import connect
from dynasor_serve.telemetry.metrics import Metrics

from fakes.redis_process import running_redis
from fakes.running_stack import until
from fakes.scripted_scheduler import ScriptedScheduler, pool_message, scripted_scheduler

QUERY = Query(model="", rule="even", prompt="What is it?", tenant="ada")
LIVE_QUERIES = 4


@dataclass(slots=True)
class Gateway:
    """Its inner parts, with no tracker: a query ends when a test cancels it."""

    queries: Queries
    follower: LogFollower
    pools: PoolDirectory
    scheduler: ScriptedScheduler
    read: int = 0  # entries

    def running(
        self, entries: Iterable[Entry], *, most: int = 256, most_bytes: int = 10_000, patience_seconds: float = 30.0
    ) -> AsyncIterator[Ended]:
        """A batch of these entries; `read` counts those it has taken."""
        batches = Batches(
            self.queries, most_in_flight=most, most_bytes_in_flight=most_bytes, patience_seconds=patience_seconds
        )

        async def coming() -> AsyncIterator[Entry]:
            for entry in entries:
                self.read += 1
                yield entry

        return batches.run(coming())

    async def live(self) -> dict[str, QueryId]:
        """Queries that are not final: prompt -> id."""
        snapshots, _ = await self.queries.list("ada", 0, 200)
        return {prompt_of(each): each.query_id for each in snapshots if not each.phase.is_final}

    async def end(self, prompt: str) -> None:
        """Ends the query with this prompt, once it is there."""

        async def is_there() -> bool:
            return prompt in await self.live()

        await until(is_there, what=f"the query {prompt!r}")
        await self.queries.cancel((await self.live())[prompt], "by the test")

    async def settled(self, *, read: int, live: int) -> None:
        """Waits until the batch has read and asked so much, and then long enough that it could have gone too far."""

        async def is_so() -> bool:
            return self.read == read and len(await self.live()) == live

        await until(is_so, what=f"{read} entries read and {live} live queries")
        await asyncio.sleep(0.1)
        assert (self.read, len(await self.live())) == (read, live)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_redis(tmp_path) as server, scripted_scheduler() as scheduler:
        scheduler.pools = [pool_message("pool")]
        redis = connect(server.url)
        log = ProgramLog(redis, final_ttl_seconds=60)
        follower, pools = LogFollower(redis, log), PoolDirectory([scheduler.address], refresh_seconds=3600)
        rules = AdmissionRules(
            live_queries_per_tenant=LIVE_QUERIES,
            live_programs_per_pool=100,
            queued_programs_per_shard=100,
            idempotency_ttl_seconds=60,
        )
        admission = Admission(rules, LivePrograms(log, refresh_seconds=3600))
        running = [asyncio.create_task(pools.run()), asyncio.create_task(follower.run())]

        async def hears() -> bool:
            ((_, listeners),) = await redis.pubsub_numsub(keys.appended_channel(keys.SHARDS[0]))
            return int(listeners) == 1

        await until(hears, what="the follower's subscription")
        await pools.pool_for("model")  # its first look is over, and none of a test's shares that one's result
        yield Gateway(Queries(log, follower, pools, Metrics("gateway"), admission), follower, pools, scheduler)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await redis.aclose()


def entry(prompt: str, size_bytes: int = 1, **fields: object) -> Entry:
    return Entry(prompt, replace(QUERY, prompt=prompt, **fields), size_bytes)  # type: ignore[arg-type]


def prompt_of(snapshot: Snapshot) -> str:
    prompt = snapshot.first.event.query.prompt  # type: ignore[union-attr]
    assert isinstance(prompt, str)
    return prompt


def snapshot_of(ended: Ended) -> Snapshot:
    assert isinstance(ended.result, Snapshot), ended.result
    assert prompt_of(ended.result) == ended.entry.key
    return ended.result


def refusal_of(ended: Ended) -> Reason:
    assert isinstance(ended.result, ServiceError), ended.result
    return ended.result.reason


async def test_queries_are_answered_in_the_order_they_end_as_get_would_show_them(gateway: Gateway) -> None:
    answers = gateway.running([entry("a"), entry("b"), entry("c")])
    ended = []
    for prompt in ("b", "c", "a"):
        coming = asyncio.ensure_future(anext(answers))
        await gateway.end(prompt)
        ended.append(snapshot_of(await coming))

    assert [prompt_of(each) for each in ended] == ["b", "c", "a"]
    assert all(each.phase is Phase.CANCELLED for each in ended)
    assert [await gateway.queries.get(each.query_id) for each in ended] == ended
    with pytest.raises(StopAsyncIteration):
        await anext(answers)


async def test_a_bad_entry_is_refused_alone(gateway: Gateway) -> None:
    wrong = ServiceError(Reason.UNKNOWN_FIELD, "the message makes no query")
    answers = gateway.running(
        [Entry("wire", wrong, 1), entry("rule", rule="no such rule"), entry("model", model="other"), entry("good")]
    )
    refused = {ended.entry.key: refusal_of(ended) for ended in [await anext(answers) for _ in range(3)]}
    await gateway.end("good")

    assert refused == {
        "wire": Reason.UNKNOWN_FIELD,
        "rule": Reason.INVALID_RULE,
        "model": Reason.UNKNOWN_MODEL,
    }
    assert [prompt_of(snapshot_of(ended)) async for ended in answers] == ["good"]


async def test_no_more_is_read_than_may_be_in_flight_and_an_answer_keeps_its_place_until_it_is_taken(
    gateway: Gateway,
) -> None:
    answers = gateway.running(map(entry, "abcdef"), most=2)
    first = asyncio.ensure_future(anext(answers))
    await gateway.settled(read=3, live=2)  # the third is read and has no place

    await gateway.end("a")
    assert prompt_of(snapshot_of(await first)) == "a"
    await gateway.settled(read=3, live=1)  # its caller may still be sending it
    second = asyncio.ensure_future(anext(answers))
    await gateway.settled(read=4, live=2)

    await gateway.end("c")
    assert prompt_of(snapshot_of(await second)) == "c"
    await answers.aclose()  # type: ignore[attr-defined]


async def test_bytes_are_bounded_as_well_and_one_query_always_fits(gateway: Gateway) -> None:
    sizes = {"a": 600, "b": 400, "c": 1, "huge": 5_000, "d": 1}
    answers = gateway.running((entry(prompt, size) for prompt, size in sizes.items()), most_bytes=1_000)
    coming = asyncio.ensure_future(anext(answers))
    await gateway.settled(read=3, live=2)

    for prompt, read, live in (("a", 4, 2), ("b", 4, 1), ("c", 5, 1), ("huge", 5, 1)):
        await gateway.end(prompt)
        assert prompt_of(snapshot_of(await coming)) == prompt
        coming = asyncio.ensure_future(anext(answers))
        await gateway.settled(read=read, live=live)
    await gateway.end("d")
    assert prompt_of(snapshot_of(await coming)) == "d"


async def test_a_full_tenant_makes_a_batch_wait(gateway: Gateway) -> None:
    prompts = [str(number) for number in range(LIVE_QUERIES + 1)]
    answers = gateway.running(map(entry, prompts))
    coming = asyncio.ensure_future(anext(answers))
    await gateway.settled(read=len(prompts), live=LIVE_QUERIES)
    (waiting,) = set(prompts) - set(await gateway.live())

    ended = set()
    for prompt in [*(set(prompts) - {waiting}), waiting]:
        await gateway.end(prompt)
        ended.add(prompt_of(snapshot_of(await coming)))
        coming = asyncio.ensure_future(anext(answers, None))  # type: ignore[arg-type]

    assert ended == set(prompts)
    assert await coming is None


async def test_an_outage_of_all_workers_makes_a_batch_wait_and_its_patience_is_bounded(gateway: Gateway) -> None:
    gateway.scheduler.pools = [pool_message("pool", ready=0)]
    with pytest.raises(ServiceError, match="no pool serves"):
        await gateway.pools.pool_for("to make it look")
    (refused,) = [ended async for ended in gateway.running([entry("a")], patience_seconds=0.0)]
    assert refusal_of(refused) is Reason.NO_READY_WORKER

    answers = gateway.running([entry("a")])
    coming = asyncio.ensure_future(anext(answers))
    await gateway.settled(read=2, live=0)  # that entry, and the earlier batch's
    gateway.scheduler.pools = [pool_message("pool", ready=1)]
    await gateway.end("a")
    assert prompt_of(snapshot_of(await coming)) == "a"


async def test_where_there_is_too_much_to_do_a_batch_waits_as_long_as_its_query_would_run(gateway: Gateway) -> None:
    for number in range(LIVE_QUERIES):
        await gateway.queries.accept(replace(QUERY, prompt=f"before {number}"))
    entries = [entry("hasty", deadline_seconds=0.1), entry("patient", deadline_seconds=60.0)]

    answers = gateway.running(entries, patience_seconds=0.0)

    assert refusal_of(hasty := await anext(answers)) is Reason.TENANT_FULL
    assert hasty.entry.key == "hasty"
    coming = asyncio.ensure_future(anext(answers))
    await gateway.end("before 0")
    await gateway.end("patient")
    assert prompt_of(snapshot_of(await coming)) == "patient"


async def test_who_hangs_up_leaves_nothing_behind_but_accepted_queries(gateway: Gateway) -> None:
    answers = gateway.running(map(entry, "abc"))
    waiting = asyncio.ensure_future(anext(answers))
    await gateway.settled(read=3, live=3)
    assert gateway.follower.watchers == 3
    assert len([task for task in asyncio.all_tasks() if "Batches." in repr(task)]) == 4, "a reader and three queries"

    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting

    assert gateway.follower.watchers == 0
    assert not [task for task in asyncio.all_tasks() if "Batches." in repr(task)]
    assert set(await gateway.live()) == set("abc")


async def test_entries_with_known_keys_are_found_running_or_final(gateway: Gateway) -> None:
    entries = [entry("a", idempotency_key="1"), entry("b", idempotency_key="2")]
    broken = gateway.running(entries)
    coming = asyncio.ensure_future(anext(broken))
    await gateway.end("a")
    first = snapshot_of(await coming)
    live = await gateway.live()
    await broken.aclose()  # type: ignore[attr-defined]

    again = gateway.running(entries)
    assert snapshot_of(await anext(again)) == first
    coming = asyncio.ensure_future(anext(again))
    await gateway.end("b")
    assert snapshot_of(await coming).query_id == live["b"]


async def test_entries_that_cannot_be_read_on_end_the_batch_with_their_error(gateway: Gateway) -> None:
    wrong = ServiceError(Reason.MALFORMED_REQUEST, "no message")

    def broken() -> Iterable[Entry]:
        yield entry("a")
        raise wrong

    with pytest.raises(ServiceError) as raised:
        await anext(gateway.running(broken()))

    assert raised.value is wrong
    assert gateway.follower.watchers == 0

"""What a tracker tells the scheduler of a program's certainty: over real gRPC, from the program that really is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.programs.events import Accepted, CallFinished
from dynasor_serve.programs.program import Program, directive, fold_log
from dynasor_serve.programs.query import Branch, Query, QueryId
from dynasor_serve.state.redis_client import connect
from dynasor_serve.tracker.active_scheduler import ActiveScheduler
from dynasor_serve.tracker.grants import SchedulerLink, Wanted

from fakes.granting_scheduler import GROUP, GrantingScheduler, granting_scheduler
from fakes.redis_process import running_redis

LEASE_SECONDS = 2.0
QUERY = Query("model", "even", prompt="?", algorithm="self-consistency:max_samples=9,width=2,idle_width=6")


def voting(*answers: str) -> Program:
    """A program whose first samples have said so, in 50 tokens each."""
    said = [
        CallFinished(Branch(branch), "1.1", answer, text="", tokens=50, prompt_tokens=20)
        for branch, answer in enumerate(answers)
    ]
    return fold_log([Accepted(QUERY, "pool", 1_000), *said])


class Told:
    """A tracker's link and what its scheduler hears."""

    def __init__(self, link: SchedulerLink, scheduler: GrantingScheduler) -> None:
        self._link, self._scheduler = link, scheduler

    async def want(self, program: Program, startable: int) -> pb.ProgramWant:
        """What the scheduler hears of a program of whose wanted calls only the last so many can start."""
        now = directive(program)
        calls = tuple((branch, "1.1") for branch in now.wanted[len(now.wanted) - startable :])
        self._link.want(Wanted(QueryId("q"), "pool", program, calls, now))
        async with asyncio.timeout(30):
            while not (heard := await self._scheduler.heard.get()).wants:
                pass
        (want,) = heard.wants
        return want


@pytest_asyncio.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    async with (
        running_redis(tmp_path) as server,
        connect(server.url) as redis,
        granting_scheduler(redis, "one", lease_seconds=LEASE_SECONDS) as scheduler,
    ):
        epoch = await scheduler.lease.acquire()
        active = ActiveScheduler(redis, GROUP)
        link = SchedulerLink("tracker-0", active)

        async def renew_forever() -> None:
            while True:
                assert await scheduler.lease.renew(epoch)
                await asyncio.sleep(LEASE_SECONDS / 10)

        tasks = [
            asyncio.create_task(renew_forever()),
            asyncio.create_task(active.run()),
            asyncio.create_task(link.run(lambda granted: None, lambda: ())),
        ]
        yield Told(link, scheduler)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_want_tells_how_settled_the_program_is_and_what_its_next_sample_gains(told: Told) -> None:
    program = voting("1", "2", "1")

    want = await told.want(program, startable=6)

    assert want.certaindex == program.assessment.certaindex > 0
    assert (want.samples, want.remaining_knob, want.prompt_tokens) == (3, 6, 20)
    assert want.gain_per_token == directive(program).gain_per_token > 0


async def test_running_calls_fill_the_width_before_any_is_speculative(told: Told) -> None:
    program = voting("1")

    assert (await told.want(program, startable=6)).speculative == 4, "two of six are needed"
    assert (await told.want(program, startable=5)).speculative == 4, "one runs, one more is needed"
    assert (await told.want(program, startable=3)).speculative == 3, "three run, more than the width"


async def test_nothing_is_known_of_a_program_that_has_just_begun(told: Told) -> None:
    want = await told.want(voting(), startable=6)

    assert (want.samples, want.gain_per_token, want.certaindex, want.prompt_tokens) == (0, 0, 0, 0)


async def test_a_program_all_of_whose_calls_run_tells_how_it_stands(told: Told) -> None:
    await told.want(voting(), startable=6)
    await told.want(voting(), startable=0)  # all are granted

    assert (await told.want(voting("1", "1"), startable=0)).samples == 2

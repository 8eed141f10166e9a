"""The programs that this tracker owns: claimed, kept alive by lease, handed back.

Three loops: claims (new programs announce themselves, ended leases are looked for), renewals, and work notices (a
cancel of a program that is owned here).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.programs.events import Accepted, Finished, Phase, ProgramError, StopReason
from dynasor_serve.programs.program import ended_without_evidence
from dynasor_serve.programs.query import QueryId
from dynasor_serve.scheduling.demand import CallEnd
from dynasor_serve.state import keys
from dynasor_serve.state.keys import Shard
from dynasor_serve.state.notices import listen
from dynasor_serve.state.program_log import Claim, Holding, ProgramLog, is_full
from dynasor_serve.state.records import CorruptRecord, NewerRecord, Record, decode
from dynasor_serve.state.redis_client import StateFull, StateUnavailable
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.clock import unix_ms
from dynasor_serve.tracker.driver import DriverTools, ProgramDriver
from dynasor_serve.tracker.granted_call import GrantedCall
from dynasor_serve.tracker.journal import program_of
from dynasor_serve.tracker.running_call import RunningCall

logger = logging.getLogger(__name__)

_MOST_CLAIMED_AT_ONCE = 64
FOLDED_AT_ONCE = 32  # records; a few milliseconds. A new program has two
_RECONNECT_SECONDS = 0.2


class Holdings:
    """All drivers of one tracker."""

    def __init__(
        self,
        redis: Redis,
        log: ProgramLog,
        tools: DriverTools,
        metrics: Metrics,
        *,
        process: str,
        address: Callable[[], str],
        max_programs: int,
        lease_seconds: float,
        claim_interval_seconds: float,
        kept_for_interactive: int,
    ) -> None:
        """`kept_for_interactive` of the `max_programs` places are for programs of the class `interactive` alone."""
        self._redis = redis
        self._log = log
        self._tools = tools
        self._metrics = metrics
        self._process = process
        self._address = address
        self._max_programs = max_programs
        self._max_of_all_classes = max_programs - kept_for_interactive
        self._lease_seconds = lease_seconds
        self._claim_interval_seconds = claim_interval_seconds
        self._drivers: dict[QueryId, ProgramDriver] = {}
        self._to_claim: set[Shard] = set(keys.SHARDS)  # shards that may hold work
        self._to_claim_with_room: set[Shard] = set()  # the same, found while no place was free
        self._claims: defaultdict[Shard, int] = defaultdict(int)  # shard -> claims whose answer has been heard
        self._wakeup = asyncio.Event()
        self._unheard: set[QueryId] = set()  # noticed since the latest claim, while no driver was there to hear of it
        self._claiming = asyncio.Lock()  # held while claimed programs are on their way
        self._is_draining = False
        self._emptied = asyncio.Event()

    @property
    def running_calls(self) -> Iterable[RunningCall]:
        """Every open call, for a restatement."""
        return [call for driver in self._drivers.values() for call in driver.gang.calls.values()]

    def driver(self, query_id: QueryId) -> ProgramDriver | None:
        """The driver of an owned program."""
        return self._drivers.get(query_id)

    def take_grant(self, call: GrantedCall) -> None:
        """Hands a grant to its program; one for a program that is gone goes back."""
        driver = self._drivers.get(call.query_id)
        if driver is None:
            self._tools.scheduler.ended(call, CallEnd.NOT_STARTED, 0)
        else:
            driver.grant(call)

    # --- loops ---

    async def run(self) -> None:
        """Claims, renews and listens until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._claim_forever())
            loops.create_task(self._renew_forever())
            loops.create_task(self._listen_forever())

    async def drain(self, grace_seconds: float) -> None:
        """Claims nothing more, lets programs finish within the grace and hands the rest back."""
        self._is_draining = True
        async with self._claiming:  # whoever is on the way has a driver by then, or is handed back
            pass
        if self._drivers:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._emptied.wait()
        released = [
            (shard, [driver.abandon() for driver in drivers]) for shard, drivers in self._by_shard().items()
        ]  # every call is closed before Redis is asked for anything
        await asyncio.gather(*(self._release(shard, held) for shard, held in released))

    async def _release(self, shard: Shard, held: list[Holding]) -> None:
        try:
            released = await self._log.release(shard, self._tools.tracker, held)
            logger.info("programs are handed back", extra={"programs": released})
        except (StateUnavailable, StateFull) as error:
            logger.warning("programs keep their lease until it ends", extra={"cause": str(error)})

    async def _claim_forever(self) -> None:
        adopt_own = True
        while True:
            shards, self._to_claim = self._to_claim, set()
            try:
                for shard in sorted(shards, key=lambda _: random.random()):
                    await self._claim(shard, adopt_own)
                adopt_own = False
            except (StateUnavailable, StateFull) as error:
                self._to_claim |= shards
                logger.warning("programs cannot be claimed", extra={"cause": str(error)})
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            if not self._to_claim:
                await self._next_look()

    async def _next_look(self) -> None:
        """Waits for a notice; without one, all shards are looked at after the interval: leases end silently."""
        self._wakeup.clear()
        try:
            async with asyncio.timeout(self._claim_interval_seconds * random.uniform(0.8, 1.2)):
                await self._wakeup.wait()
        except TimeoutError:
            self._to_claim |= set(keys.SHARDS)

    async def _claim(self, shard: Shard, adopt_own: bool) -> None:
        is_exhausted = False
        while not is_exhausted:
            async with self._claiming:
                room = min(_MOST_CLAIMED_AT_ONCE, self._max_programs - len(self._drivers))
                limit = max(0, min(room, self._max_of_all_classes - len(self._drivers)))
                if self._is_draining:
                    return
                if limit == 0:
                    self._to_claim_with_room.add(shard)
                if room <= 0:
                    return
                asked = asyncio.get_running_loop().time()
                self._unheard.clear()
                claims = await self._log.claim(
                    shard,
                    tracker=self._tools.tracker,
                    process=self._process,
                    address=self._address(),
                    limit=limit,
                    lease_ms=round(self._lease_seconds * 1000),
                    number=self._claims[shard],
                    adopt_own=adopt_own,
                    further_urgent=room - limit,
                )
                begun = 0
                while begun < len(claims) and not self._is_draining:
                    await self._begin(claims[begun], asked + self._lease_seconds * 2 / 3)
                    begun += 1
                rest = [claim for claim in claims[begun:] if claim.query_id not in self._drivers]
                if rest:
                    await self._release(shard, [Holding(claim.query_id, claim.epoch) for claim in rest])
                self._claims[shard] += 1
                is_exhausted = len(claims) < (limit or room) and not is_full(claims)

    async def _begin(self, claim: Claim, held_until: float) -> None:
        former = self._drivers.get(claim.query_id)
        if former is not None:
            if former.holding.epoch == claim.epoch:  # told again what has begun
                return
            former.abandon()  # its lease had ended and came back to us
        try:
            if len(claim.lines) <= FOLDED_AT_ONCE:
                program = program_of(claim)
            else:
                # Beside the loop, which goes on to renew leases and to read streams: a long log takes a second.
                program = await asyncio.to_thread(program_of, claim)
        except NewerRecord as error:
            # Its lease lapses: a tracker of the release that wrote it goes on.
            logger.warning("a program is of a newer release", extra={"query_id": claim.query_id, "cause": str(error)})
            return
        except (CorruptRecord, InvalidRule, ValueError) as error:
            await self._fail_unreadable(claim, error)
            return
        driver = self._drivers[claim.query_id] = ProgramDriver(claim, program, self._tools, self._forget)
        driver.hold_until(held_until)
        try:
            driver.start()
        except Exception as error:  # noqa: BLE001 - an algorithm may be anybody's
            driver.abandon()
            await self._fail_unreadable(claim, error)
            return
        if claim.query_id in self._unheard:
            driver.catch_up()

    async def _fail_unreadable(self, claim: Claim, error: Exception) -> None:
        """Ends a program whose log this tracker cannot fold, or whose algorithm fails over what is folded.

        At least its first record must be readable.
        """
        logger.error("a program cannot be read", extra={"query_id": claim.query_id, "cause": str(error)})
        try:
            accepted = decode(claim.lines[0]).event
        except CorruptRecord:
            return  # its lease lapses, again and again, until somebody looks
        if not isinstance(accepted, Accepted):
            return
        now = unix_ms()
        problem = ProgramError("PROGRAM_UNREADABLE", f"the tracker cannot run this query: {error}")
        outcome = ended_without_evidence(accepted, Phase.FAILED, StopReason.FAILED, str(error), now, problem)
        await self._log.finish(
            Holding(claim.query_id, claim.epoch),
            self._tools.tracker,
            accepted.query.tenant,
            len(claim.lines),
            [Record(Finished(outcome), now)],
            Phase.FAILED,
        )

    async def _renew_forever(self) -> None:
        """Renews all leases six times per lease, shards side by side: without Redis each waits for its own timeout."""
        while True:
            await asyncio.sleep(self._lease_seconds / 6 * random.uniform(0.8, 1.0))
            await asyncio.gather(*(self._renew(shard, drivers) for shard, drivers in self._by_shard().items()))
            self._metrics.set(catalogue.PROGRAMS, len(self._drivers), state="running")

    async def _renew(self, shard: Shard, drivers: list[ProgramDriver]) -> None:
        """Renews one shard's leases."""
        asked = asyncio.get_running_loop().time()
        held = [driver.holding for driver in drivers]
        try:
            lengths = await self._log.renew(shard, self._tools.tracker, round(self._lease_seconds * 1000), held)
        except (StateUnavailable, StateFull) as error:
            logger.warning("leases cannot be renewed", extra={"shard": shard, "cause": str(error)})
            return
        for driver, length in zip(drivers, lengths, strict=True):
            if driver.is_over:
                continue
            if length < 0:
                driver.lose("is another tracker's")
                continue
            driver.hold_until(asked + self._lease_seconds * 2 / 3)
            if length > driver.length:
                driver.catch_up()

    async def _listen_forever(self) -> None:
        """Hears which shards have work, and which owned programs were asked to stop."""
        channels = list(map(keys.work_channel, keys.SHARDS))
        while True:
            try:
                await listen(self._redis, channels, self._hear, subscribed=self._look_everywhere)
            except (RedisError, OSError) as error:
                logger.warning("notices are not heard", extra={"cause": str(error)})
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _hear(self, _channel: bytes, data: bytes) -> None:
        """A program was queued, released or asked to cancel."""
        said, _, wish = data.decode().partition("\n")
        query_id = QueryId(said)
        driver = self._drivers.get(query_id)
        if driver is not None:
            driver.catch_up()
            return
        if wish and self._claiming.locked():  # it may be among those that are on their way
            self._unheard.add(query_id)
        self._to_claim.add(keys.shard_of(query_id))
        self._wakeup.set()

    def _look_everywhere(self) -> None:
        """After a reconnect notices may have been missed."""
        self._to_claim |= set(keys.SHARDS)
        self._wakeup.set()
        for driver in list(self._drivers.values()):
            driver.catch_up()

    def _forget(self, driver: ProgramDriver) -> None:
        if self._drivers.get(driver.query_id) is driver:
            del self._drivers[driver.query_id]
            if not self._drivers:
                self._emptied.set()
            if len(self._drivers) in (self._max_programs - 1, self._max_of_all_classes - 1):  # there is room again
                self._to_claim |= self._to_claim_with_room
                self._to_claim_with_room.clear()
                self._wakeup.set()

    def _by_shard(self) -> dict[Shard, list[ProgramDriver]]:
        shards: defaultdict[Shard, list[ProgramDriver]] = defaultdict(list)
        for driver in self._drivers.values():
            shards[keys.shard_of(driver.query_id)].append(driver)
        return dict(shards)

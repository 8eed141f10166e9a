"""The tracker's conversation with the active scheduler: wants and ended calls go out, grants come in.

News is gathered and sent in batches: whatever changed since the last message, the newest want of a program alone. When
the scheduler changes (`active_scheduler` says so), everything is restated and no call is touched.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.engines.client import Endpoint
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.programs.program import Directive, Program
from dynasor_serve.programs.query import Branch, QueryClass, QueryId
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.scheduling.demand import CallEnd, ProgramEnd
from dynasor_serve.tracker.active_scheduler import ActiveScheduler, Activity
from dynasor_serve.tracker.granted_call import GrantedCall
from dynasor_serve.tracker.running_call import RunningCall

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_PAUSE_SECONDS = 0.1  # before the same scheduler is tried again
# What only frees places waits so long for company: each message costs both sides as much as ten calls in it.
_GATHERING_SECONDS = 0.002
# What a program without waiting calls has to tell, its Certaindex above all, serves forecasts: so often is enough.
_STANDING_SECONDS = 1.0
_CLASSES = {QueryClass.INTERACTIVE: 1, QueryClass.STANDARD: 2, QueryClass.BATCH: 3}  # as QueryClass on the wire
_CALL_ENDS = {
    CallEnd.FINISHED: pb.CALL_END_FINISHED,
    CallEnd.CANCELLED: pb.CALL_END_CANCELLED,
    CallEnd.WORKER_FAILED: pb.CALL_END_WORKER_FAILED,
    CallEnd.NOT_STARTED: pb.CALL_END_NOT_STARTED,
    CallEnd.REFUSED: pb.CALL_END_REFUSED,
}
_PROGRAM_ENDS = {
    ProgramEnd.COMPLETED: pb.PROGRAM_END_COMPLETED,
    ProgramEnd.DEADLINE: pb.PROGRAM_END_DEADLINE,
    ProgramEnd.CANCELLED: pb.PROGRAM_END_CANCELLED,
    ProgramEnd.FAILED: pb.PROGRAM_END_FAILED,
    ProgramEnd.RELEASED: pb.PROGRAM_END_RELEASED,
}


_Conversation = grpc.aio.StreamStreamCall[pb.CoordinateRequest, pb.CoordinateResponse]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a program would run next in one pool."""

    query_id: QueryId
    pool: str
    program: Program
    calls: tuple[tuple[Branch, str], ...]  # (branch, attempt)
    directive: Directive  # from which the calls follow


class SchedulerLink:
    """One tracker's link to the active scheduler of its group."""

    def __init__(self, tracker: str, active: ActiveScheduler) -> None:
        self._tracker = tracker
        self._active = active
        self._wants: dict[QueryId, dict[str, Wanted]] = {}  # live program -> pool -> its newest want
        self._news: dict[tuple[QueryId, str], Wanted] = {}  # wants not yet sent
        self._standing: dict[tuple[QueryId, str], Wanted] = {}  # wants without calls that have changed since
        self._ended: list[pb.EndedCall] = []
        self._withdrawn: list[pb.Withdrawal] = []
        self._wakeup = asyncio.Event()
        self._gathering: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None  # how programs stand
        self._on_grant: Callable[[GrantedCall], None]
        self._running: Callable[[], Iterable[RunningCall]]

    # --- news from drivers ---

    def want(self, wanted: Wanted) -> None:
        """States what a program wants; while that is nothing, again and again, how it stands."""
        wants = self._wants.setdefault(wanted.query_id, {})
        key, known = (wanted.query_id, wanted.pool), wants.get(wanted.pool)
        wants[wanted.pool] = wanted
        if known is not None and not wanted.calls and not known.calls:
            self._standing[key] = wanted
            if self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(_STANDING_SECONDS, self._tell_standing)
            return
        self._standing.pop(key, None)
        self._news[key] = wanted
        self._wakeup.set()

    def ended(self, call: GrantedCall, end: CallEnd, tokens: int) -> None:
        """A call ended, or its grant is returned."""
        self._ended.append(
            pb.EndedCall(
                query_id=call.query_id, branch=call.branch, attempt=call.attempt, end=_CALL_ENDS[end], tokens=tokens
            )
        )
        self._gather()

    def withdraw(self, query_id: QueryId, end: ProgramEnd) -> None:
        """The program is final or no longer this tracker's."""
        wants = self._wants.pop(query_id, None)
        if wants is not None:
            for pool in wants:
                self._news.pop((query_id, pool), None)
                self._standing.pop((query_id, pool), None)
            self._withdrawn.append(pb.Withdrawal(query_id=query_id, end=_PROGRAM_ENDS[end]))
            self._gather()

    def _gather(self) -> None:
        """Sends what there is, soon."""
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self._wakeup.set)

    def _tell_standing(self) -> None:
        self._telling = None
        if self._standing:
            self._news.update(self._standing)
            self._standing.clear()
            self._wakeup.set()

    # --- the conversation ---

    async def run(self, on_grant: Callable[[GrantedCall], None], running: Callable[[], Iterable[RunningCall]]) -> None:
        """Talks to whichever scheduler is active until cancelled.

        Args:
            on_grant: takes each grant.
            running: the calls that are open, for a restatement.
        """
        self._on_grant, self._running = on_grant, running
        while True:
            activity = await self._active.begins()
            cause = await self._converse(activity)
            logger.debug("a conversation with a scheduler ended", extra={"epoch": activity.epoch, "cause": cause})
            await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.5))

    async def _converse(self, activity: Activity) -> str:
        """Talks until either side ends it, or the scheduler is not to be obeyed any more. Returns why it ended."""
        async with open_channel(activity.address) as channel:
            call = SchedulerServiceStub(channel).Coordinate()
            parts = [
                asyncio.create_task(self._tell(call, activity)),
                asyncio.create_task(self._hear(call, activity)),
                asyncio.create_task(self._active.ends(activity)),
            ]
            try:
                ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
                call.cancel()
        errors = [error for part in ended if (error := part.exception()) is not None]
        for error in errors:
            if not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError | TimeoutError):
                logger.error("a conversation with a scheduler failed", exc_info=error)
        return str(errors[0]) if errors else "the scheduler hung up, or is not the active one any more"

    async def _tell(self, call: _Conversation, activity: Activity) -> None:
        """Restates everything, then tells what is new."""
        async with asyncio.timeout(_CONNECT_SECONDS):
            await call.write(self._restatement())
            await call.wait_for_connection()
        logger.info("talking to the active scheduler", extra={"scheduler": activity.address, "epoch": activity.epoch})
        await self._send(call)

    async def _hear(self, call: _Conversation, activity: Activity) -> None:
        """Takes grants while they bind. Those that do not need no answer: hanging up returns them."""
        async for response in call:
            if not self._active.obeys(activity) or any(grant.epoch != activity.epoch for grant in response.grants):
                logger.warning("grants of a scheduler that is not active are refused", extra={"epoch": activity.epoch})
                return
            for grant in response.grants:
                self._take(grant)

    async def _send(self, call: _Conversation) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            message = pb.CoordinateRequest(
                wants=[_want_message(wanted) for wanted in self._news.values()],
                ended=self._ended,
                withdrawn=[gone.query_id for gone in self._withdrawn],
                withdrawals=self._withdrawn,
            )
            self._forget_news()
            await call.write(message)

    def _restatement(self) -> pb.CoordinateRequest:
        message = pb.CoordinateRequest(
            tracker=self._tracker,
            wants=[_want_message(wanted) for wants in self._wants.values() for wanted in wants.values()],
            running=[
                pb.RunningCall(
                    query_id=call.granted.query_id,
                    branch=call.branch,
                    attempt=call.granted.attempt,
                    worker=call.granted.worker,
                    pool=call.granted.pool,
                )
                for call in self._running()
            ],
        )
        self._forget_news()
        self._standing.clear()
        return message

    def _forget_news(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._news.clear()
        self._ended = []
        self._withdrawn = []

    def _take(self, grant: pb.Grant) -> None:
        granted = GrantedCall(
            query_id=QueryId(grant.query_id),
            branch=Branch(grant.branch),
            attempt=grant.attempt,
            pool=grant.pool,
            worker=grant.worker,
            endpoint=Endpoint(grant.url, EngineKind(grant.engine)),
            priority=grant.priority,
        )
        self._on_grant(granted)


def _want_message(wanted: Wanted) -> pb.ProgramWant:
    program = wanted.program
    query = program.query
    return pb.ProgramWant(
        query_id=wanted.query_id,
        pool=wanted.pool,
        calls=[pb.WantedCall(branch=branch, attempt=attempt) for branch, attempt in wanted.calls],
        query_class=_CLASSES[query.query_class],
        tenant=query.tenant,
        remaining_knob=wanted.directive.remaining_knob,
        mean_tokens_per_branch=program.mean_tokens_per_branch,
        accepted_at_ms=program.accepted_at_ms,
        deadline_ms=program.deadline_ms,
        tokens_spent=program.ledger.spent,
        algorithm=query.algorithm.partition(":")[0],
        shares_prefixes=program.algorithm.shares_prefixes,
        certaindex=program.assessment.certaindex,
        samples=program.assessment.samples,
        gain_per_token=wanted.directive.gain_per_token,
        # Of calls that are wanted one after the other: those that run take the places that are not speculative first.
        speculative=min(wanted.directive.speculative, len(wanted.calls)),
        prompt_tokens=program.mean_prompt_tokens,
    )

"""Between the scheduler's protobuf messages and the domain's values."""

from __future__ import annotations

from dataclasses import fields

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.scheduling.demand import CallEnd, CallId, Grant, ProgramEnd, Want
from dynasor_serve.scheduling.placement import Worker, WorkerState
from dynasor_serve.scheduling.pool_demand import Demand

_CALL_ENDS = {
    pb.CALL_END_FINISHED: CallEnd.FINISHED,
    pb.CALL_END_CANCELLED: CallEnd.CANCELLED,
    pb.CALL_END_WORKER_FAILED: CallEnd.WORKER_FAILED,
    pb.CALL_END_NOT_STARTED: CallEnd.NOT_STARTED,
    pb.CALL_END_REFUSED: CallEnd.REFUSED,
}
_DEMAND_FIELDS = tuple(field.name for field in fields(Demand))
_PROGRAM_ENDS = {
    pb.PROGRAM_END_COMPLETED: ProgramEnd.COMPLETED,
    pb.PROGRAM_END_DEADLINE: ProgramEnd.DEADLINE,
    pb.PROGRAM_END_CANCELLED: ProgramEnd.CANCELLED,
    pb.PROGRAM_END_FAILED: ProgramEnd.FAILED,
    pb.PROGRAM_END_RELEASED: ProgramEnd.RELEASED,
}
_WORKER_STATES = {
    WorkerState.STARTING: pb.WORKER_STATE_STARTING,
    WorkerState.READY: pb.WORKER_STATE_READY,
    WorkerState.DRAINING: pb.WORKER_STATE_DRAINING,
    WorkerState.QUARANTINED: pb.WORKER_STATE_QUARANTINED,
}


def want_from(message: pb.ProgramWant) -> Want:
    """What a tracker says a program would run next."""
    program = message.query_id
    return Want(
        program=program,
        pool=message.pool,
        algorithm=message.algorithm,
        calls=tuple(CallId(program, call.branch, call.attempt) for call in message.calls),
        class_rank=max(0, message.query_class - 1),
        tenant=message.tenant,
        remaining_knob=message.remaining_knob,
        mean_tokens_per_branch=message.mean_tokens_per_branch,
        accepted_at_ms=message.accepted_at_ms,
        deadline_ms=message.deadline_ms,
        tokens_spent=message.tokens_spent,
        shares_prefixes=message.shares_prefixes,
        certaindex=message.certaindex,
        samples=message.samples,
        gain_per_token=message.gain_per_token,
        speculative=message.speculative,
        prompt_tokens=message.prompt_tokens,
    )


def call_end_from(message: pb.EndedCall) -> tuple[CallId, CallEnd, int]:
    """Which call ended, how, and after how many completion tokens."""
    call = CallId(message.query_id, message.branch, message.attempt)
    return call, _CALL_ENDS.get(message.end, CallEnd.CANCELLED), message.tokens


def program_ends_from(message: pb.CoordinateRequest) -> dict[str, ProgramEnd | None]:
    """Programs that are withdrawn, and how they ended, as far as their tracker says."""
    ends = {gone.query_id: _PROGRAM_ENDS.get(gone.end) for gone in message.withdrawals}
    return {program: ends.get(program) for program in message.withdrawn}


def grant_message(grant: Grant, pool: str, epoch: int) -> pb.Grant:
    """A grant for the wire."""
    return pb.Grant(
        query_id=grant.call.program,
        branch=grant.call.branch,
        attempt=grant.call.attempt,
        pool=pool,
        worker=grant.worker,
        url=grant.url,
        priority=grant.priority,
        epoch=epoch,
        engine=grant.engine,
    )


def worker_message(worker: Worker) -> pb.Worker:
    """A worker as the operator sees it."""
    return pb.Worker(
        name=worker.name,
        url=worker.url,
        state=_WORKER_STATES[worker.state],
        max_in_flight=worker.max_in_flight,
        in_flight=len(worker.in_flight),
        message=worker.message,
        engine=worker.engine,
    )


def demand_message(pool: str, demand: Demand) -> pb.PoolDemand:
    """The demand of a pool for the wire, where its fields have the same names."""
    return pb.PoolDemand(pool=pool, **{name: getattr(demand, name) for name in _DEMAND_FIELDS})

"""Runs programs to their caps on a live stack and reads their logs: the raw material of a trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.local.questions.prompts import PromptStyle
from dynasor_serve.local.questions.question_set import Question
from dynasor_serve.local.recording.trace_lines import Recorded
from dynasor_serve.programs.query import QueryId
from dynasor_serve.state.program_log import ProgramLog

TO_THE_CAP = "even"
_DEADLINE_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Recipe:
    """How programs are run for a recording.

    Attributes:
        dataset, run_id: as the trace names them.
        query: what all programs share; each adds its question.
        style: how a question becomes a prompt; None asks it as a chat message.
    """

    dataset: str
    run_id: str
    query: pb.Query
    style: PromptStyle | None

    def query_for(self, question: Question) -> pb.Query:
        """One program's query."""
        query = pb.Query()
        query.CopyFrom(self.query)
        query.answer_type = question.answer_type.value
        query.policy.rule = TO_THE_CAP
        query.deadline.FromSeconds(_DEADLINE_SECONDS)
        if self.style is None:
            query.chat.messages.add(role="user", content=question.question)
        else:
            query.prompt = self.style.prompt(question.question)
            if not query.sampling.stop:
                query.sampling.stop.extend(self.style.stop)
            if not query.sampling.HasField("max_tokens"):
                query.sampling.max_tokens = self.style.max_tokens
        return query


@dataclass(frozen=True, slots=True)
class Job:
    """One program to record."""

    question: Question
    seed: int  # tells programs of one question apart


async def recorded(
    stub: ReasoningServiceStub, redis: Redis, recipe: Recipe, jobs: Sequence[Job], *, concurrency: int
) -> AsyncIterator[Recorded]:
    """Runs the jobs, a few at a time, and yields each once it is final.

    Raises:
        grpc.aio.AioRpcError: a query was refused.
        StateUnavailable: its log cannot be read.
    """
    log = ProgramLog(redis, final_ttl_seconds=1)
    waiting = iter(jobs)
    running: set[asyncio.Task[Recorded]] = set()
    try:
        while True:
            while len(running) < concurrency and (job := next(waiting, None)) is not None:
                running.add(asyncio.create_task(_run(stub, log, recipe, job)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _run(stub: ReasoningServiceStub, log: ProgramLog, recipe: Recipe, job: Job) -> Recorded:
    query_id = ""
    async for response in stub.Run(pb.RunRequest(query=recipe.query_for(job.question))):
        query_id = response.event.query_id
    records = await log.read(QueryId(query_id), 0)
    return Recorded(recipe.dataset, job.question, tuple(records), recipe.run_id, job.seed)


def jobs_of(questions: Sequence[Question], repeats: int) -> list[Job]:
    """Every question `repeats` times, one round after the other."""
    return [Job(question, seed) for seed in range(repeats) for question in questions]

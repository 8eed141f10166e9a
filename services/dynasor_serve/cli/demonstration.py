"""Asks the bundled questions of a running stack, a few at a time. `demo` runs it twice: with a rule, and to the cap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.certaindex.answers import canonical
from dynasor_serve.cli.comparison import Result
from dynasor_serve.cli.following import run_query
from dynasor_serve.cli.standing import Standing
from dynasor_serve.local.questions.prompts import SHORT_ANSWER
from dynasor_serve.local.questions.question_set import Question

MAX_SAMPLES = 16
WIDTH = 4

NO_ANSWER_REASON = "NO_ANSWER"
"""A query failed because its samples held no answer: wrong, but nothing is broken."""


@dataclass(slots=True)
class Asked:
    """A question and where its query stands."""

    question: Question
    standing: Standing

    @property
    def is_final(self) -> bool:
        return self.standing.outcome is not None

    @property
    def is_correct(self) -> bool:
        """Whether its answer, so far as there is one, equals the gold answer."""
        votes = self.standing.votes
        answer = self.standing.outcome.answer if self.standing.outcome else votes[0][0] if votes else ""
        kind = self.question.answer_type
        return bool(answer) and canonical(answer, kind).key == canonical(self.question.gold, kind).key

    @property
    def error(self) -> str:
        """Why it has no answer, where something is broken."""
        outcome = self.standing.outcome
        if outcome is None or not outcome.HasField("error") or outcome.error.reason == NO_ANSWER_REASON:
            return ""
        return f"{outcome.error.reason}: {outcome.error.message}"

    @property
    def result(self) -> Result:
        """What counts of it once it is final."""
        return Result(is_correct=self.is_correct, tokens=self.standing.tokens, samples=self.standing.samples)


def not_yet_asked(questions: Sequence[Question]) -> list[Asked]:
    """The questions before anything has happened."""
    return [Asked(question, Standing(answer_type=question.answer_type.value)) for question in questions]


async def ask_all(
    stub: ReasoningServiceStub,
    address: str,
    asked: Sequence[Asked],
    *,
    rule: str,
    concurrency: int,
    changed: Callable[[Asked, pb.QueryEvent], None],
) -> None:
    """Asks every question and returns when all are final.

    Args:
        stub, address: the gateway.
        asked: from `not_yet_asked`; their standings are kept up to date.
        rule: when to stop; empty for the server's default.
        concurrency: queries that run at once.
        changed: called after each event.

    Raises:
        CommandFailed: the server refuses a query, or is out of reach.
    """
    slots = asyncio.Semaphore(concurrency)

    async def ask(one: Asked) -> None:
        async with slots, contextlib.aclosing(run_query(stub, query_of(one.question, rule), address)) as events:
            async for event in events:
                one.standing.apply(event)
                changed(one, event)

    tasks = [asyncio.create_task(ask(one)) for one in asked]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def query_of(question: Question, rule: str) -> pb.Query:
    """The query of a bundled question: its recorded prompt, sampled as it was recorded."""
    style = SHORT_ANSWER
    return pb.Query(
        prompt=style.prompt(question.question),
        sampling=pb.SamplingParameters(temperature=style.temperature, max_tokens=style.max_tokens, stop=style.stop),
        answer_type=question.answer_type.value,
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=MAX_SAMPLES, width=WIDTH)),
        policy=pb.Policy(rule=rule),
        labels={"demo": question.id},
    )

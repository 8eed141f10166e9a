"""The end of `dynasor demo`: a chain and a tree, one question each, answered live or from their recordings."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.cli.following import run_query
from dynasor_serve.cli.presentation import answer_text, ending_line
from dynasor_serve.cli.standing import Standing
from dynasor_serve.local.questions.prompts import PARTED_STEPS, STEP_BY_STEP, PromptStyle
from dynasor_serve.local.questions.question_set import WORD_PROBLEMS, Question, read_questions


@dataclass(frozen=True, slots=True)
class _Show:
    algorithm: str
    rule: str
    question_id: str
    style: PromptStyle
    recording: str  # the kind of record that a replay answers from

    def query(self, question: Question, *, is_replay: bool) -> pb.Query:
        query = pb.Query(
            answer_type=question.answer_type.value,
            algorithm=pb.Algorithm(type_string=self.algorithm),
            policy=pb.Policy(rule=self.rule),
            sampling=pb.SamplingParameters(max_tokens=self.style.max_tokens, temperature=0.5, stop=self.style.stop),
        )
        if is_replay:  # one prompt has recordings of several kinds
            marker = f"[[trace:word-problems/{self.question_id}#{self.recording}]]"
            query.chat.messages.add(role="user", content=f"{question.question} {marker}")
        else:
            query.prompt = self.style.prompt(question.question)
        return query


_SHOWS = (
    _Show("chain-of-thought", "consensus-window:window=2,interval=16", "sum-48-27", STEP_BY_STEP, "probes"),
    _Show("rebase:width=4,step_tokens=64", "even", "books-3-shelves", PARTED_STEPS, "steps"),
)


async def show_other_programs(stub: ReasoningServiceStub, address: str, console: Console, *, is_replay: bool) -> None:
    """Runs them one after the other and prints a line for each.

    Raises:
        CommandFailed: the server refuses a query, or cannot be reached any more.
    """
    questions = {question.id: question for question in read_questions(WORD_PROBLEMS)}
    console.print("\nOther programs, a question each:", highlight=False)
    for show in _SHOWS:
        question = questions[show.question_id]
        standing = Standing(answer_type=question.answer_type.value)
        async for event in run_query(stub, show.query(question, is_replay=is_replay), address):
            standing.apply(event)
        said = f"{show.algorithm}  {question.question}  {answer_text(standing)} (it is {question.gold})"
        console.print(f"  {said}\n    {ending_line(standing)}", markup=False, highlight=False, soft_wrap=True)

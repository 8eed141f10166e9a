"""The options that describe a query, shared by `run` and `submit`, and the message they make.

What a query may hold is the server's to decide: only what cannot be put into the message is refused here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.rpc.errors import Reason

ALGORITHMS = ("self-consistency",)


class ClassName(StrEnum):
    """Names of the query classes."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


_CLASSES = {
    ClassName.INTERACTIVE: pb.QUERY_CLASS_INTERACTIVE,
    ClassName.STANDARD: pb.QUERY_CLASS_STANDARD,
    ClassName.BATCH: pb.QUERY_CLASS_BATCH,
}

_LONGEST_DURATION_SECONDS = 1e9  # what is sent; the server allows less
_COMPUTE, _SAMPLING, _SERVICE = "How much compute", "How it samples", "How it is served"

QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads standard input.")]
PromptOption = Annotated[
    bool, typer.Option("--prompt", help="Send QUESTION as a plain completion prompt, without the chat template.")
]
SystemOption = Annotated[str, typer.Option("--system", help="Instructions before the question (chat only).")]
AnswerTypeOption = Annotated[
    str, typer.Option("--answer-type", help="How answers are read and compared: text, number, math or choice.")
]
ModelOption = Annotated[str, typer.Option("--model", help="The model; may be left out where only one is served.")]
AlgorithmOption = Annotated[
    str, typer.Option("--algorithm", rich_help_panel=_COMPUTE, help=f"One of: {', '.join(ALGORITHMS)}.")
]
MaxSamplesOption = Annotated[
    int | None,
    typer.Option("--max-samples", rich_help_panel=_COMPUTE, show_default="16", help="The cap: most samples drawn."),
]
WidthOption = Annotated[
    int | None, typer.Option("--width", rich_help_panel=_COMPUTE, show_default="4", help="Most samples at once.")
]
RuleOption = Annotated[
    str,
    typer.Option(
        "--rule",
        rich_help_panel=_COMPUTE,
        help="When to stop early, such as static-threshold:threshold=0.7,detect=5; `dynasor rules` lists them.",
        show_default="the server's",
    ),
]
BudgetOption = Annotated[
    int, typer.Option("--budget-tokens", rich_help_panel=_COMPUTE, help="Most completion tokens in all; 0: no bound.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        rich_help_panel=_COMPUTE,
        show_default="the server's",
        help="Ends with the best answer so far after this long.",
    ),
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", rich_help_panel=_SAMPLING, show_default="0.8", help="0 to 2.")
]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", rich_help_panel=_SAMPLING, help="Nucleus mass, above 0 to 1.")
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", rich_help_panel=_SAMPLING, show_default="512", help="Most tokens per sample."),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", rich_help_panel=_SAMPLING, help="A string that ends a sample; may be repeated."),
]
ClassOption = Annotated[ClassName, typer.Option("--class", rich_help_panel=_SERVICE, help="How urgent it is.")]
TenantOption = Annotated[str, typer.Option("--tenant", rich_help_panel=_SERVICE, help="Who is billed.")]
IdempotencyKeyOption = Annotated[
    str,
    typer.Option(
        "--idempotency-key", rich_help_panel=_SERVICE, help="Asking again under the same key follows the first query."
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", rich_help_panel=_SERVICE, help="A free label; may be repeated."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """A query as the command line describes it; None and empty leave the choice to the server."""

    question: str
    is_prompt: bool = False
    system: str = ""
    answer_type: str = ""
    model: str = ""
    algorithm: str = ALGORITHMS[0]
    max_samples: int | None = None
    width: int | None = None
    rule: str = ""
    budget_tokens: int = 0
    deadline_seconds: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    query_class: ClassName = ClassName.STANDARD
    tenant: str = ""
    idempotency_key: str = ""
    labels: tuple[str, ...] = ()

    def message(self) -> pb.Query:
        """The query to send.

        Raises:
            CommandFailed: something cannot be put into a message at all.
        """
        self._refuse_what_does_not_fit()
        query = pb.Query(
            system_prompt=self.system,
            sampling=pb.SamplingParameters(
                temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, stop=self.stop
            ),
            answer_type=self.answer_type,
            model=self.model,
            algorithm=self._algorithm(),
            policy=pb.Policy(rule=self.rule),
            budget=pb.Budget(max_tokens=self.budget_tokens),
            query_class=_CLASSES[self.query_class],
            tenant=self.tenant,
            idempotency_key=self.idempotency_key,
            labels=dict(map(_label, self.labels)),
        )
        if self.deadline_seconds is not None:
            query.deadline.FromNanoseconds(round(self.deadline_seconds * 1e9))
        if self.is_prompt:
            query.prompt = self.question
        else:
            query.chat.messages.add(role="user", content=self.question)
        return query

    def _refuse_what_does_not_fit(self) -> None:
        widths = ((self.max_samples, "max-samples", 31), (self.width, "width", 31), (self.max_tokens, "max-tokens", 31))
        for number, option, bits in (*widths, (self.budget_tokens, "budget-tokens", 63)):
            if number is not None and abs(number) >= 2**bits:
                raise bad_input(f"--{option} is {number}; give a smaller number", Reason.INVALID_QUERY)
        seconds = self.deadline_seconds
        if seconds is not None and not abs(seconds) < _LONGEST_DURATION_SECONDS:
            raise bad_input(f"--deadline is {seconds:g}; give a number of seconds", Reason.INVALID_QUERY)

    def _algorithm(self) -> pb.Algorithm:
        if self.algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise bad_input(
                f"algorithm: there is none called {self.algorithm!r}; known are: {known}", Reason.INVALID_QUERY
            )
        return pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=self.max_samples, width=self.width))


def read_question(argument: str) -> str:
    """The question of the command line, or of standard input where it is `-`.

    Raises:
        CommandFailed: it is empty, or not UTF-8.
    """
    question = argument
    if argument == "-":
        if sys.stdin.isatty():
            print("Type the question, then Ctrl-D:", file=sys.stderr)
        try:
            question = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise bad_input(
                f"standard input is not valid UTF-8 (byte {error.start}: {error.reason}); convert it"
            ) from error
    if not question.strip():
        raise bad_input(
            "the question is empty; give its text, or - to read it from standard input", Reason.INVALID_QUERY
        )
    return question


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise bad_input(f"the label {text!r} is not KEY=VALUE")
    return key, value

"""The options that describe a query, shared by `run` and `submit`, and the message they make.

What a query may hold is the server's to decide: only what cannot be put into the message is refused here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any

import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.rpc.errors import Reason

SELF_CONSISTENCY = "self-consistency"


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
_CHAINS, _REWARDS = "How chains are probed", "Who judges paths"

QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads standard input.")]
PromptOption = Annotated[
    bool, typer.Option("--prompt", help="Send QUESTION as a plain completion prompt, without the chat template.")
]
SystemOption = Annotated[str, typer.Option("--system", help="Instructions before the question (chat only).")]
AnswerTypeOption = Annotated[
    str,
    typer.Option(
        "--answer-type", help="How answers are read and compared: text, number, math, choice, free-text or code."
    ),
]
ComparedByOption = Annotated[
    str,
    typer.Option(
        "--compared-by", help="Of code the tests; of free-text a similarity, such as edit-ratio:threshold=0.9."
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="The model; may be left out where only one is served.")]
AlgorithmOption = Annotated[
    str,
    typer.Option(
        "--algorithm",
        rich_help_panel=_COMPUTE,
        help="Such as chain-of-thought or rebase:width=16; `dynasor algorithms` lists them.",
    ),
]
MaxSamplesOption = Annotated[
    int | None,
    typer.Option(
        "--max-samples", rich_help_panel=_COMPUTE, show_default="16", help="Self-consistency: most samples drawn."
    ),
]
WidthOption = Annotated[
    int | None,
    typer.Option("--width", rich_help_panel=_COMPUTE, show_default="4", help="Self-consistency: most samples at once."),
]
IdleWidthOption = Annotated[
    int | None,
    typer.Option(
        "--idle-width",
        rich_help_panel=_COMPUTE,
        show_default="the width",
        help="Self-consistency: most samples at once where nobody else wants the places.",
    ),
]
RuleOption = Annotated[
    str,
    typer.Option(
        "--rule",
        rich_help_panel=_COMPUTE,
        help="When to stop early, such as static-threshold:threshold=0.7,detect=5; `dynasor rules` lists them.",
        show_default="the algorithm's or the server's",
    ),
]
ChainRuleOption = Annotated[
    str,
    typer.Option(
        "--chain-rule",
        rich_help_panel=_CHAINS,
        help="Self-consistency: makes each sample a long chain, stopped by this rule, such as trial-confidence.",
    ),
]
ProbePromptOption = Annotated[
    str,
    typer.Option(
        "--probe-prompt",
        rich_help_panel=_CHAINS,
        help="dynasor, deer, or the text put behind the chain.",
        show_default="deer",
    ),
]
ProbeIntervalOption = Annotated[
    int | None,
    typer.Option("--probe-interval", rich_help_panel=_CHAINS, help="Tokens between probes.", show_default="the rule's"),
]
ProbeMarksOption = Annotated[
    bool | None,
    typer.Option(
        "--probe-marks/--no-probe-marks",
        rich_help_panel=_CHAINS,
        help="Probe where the chain reflects (Wait, Alternatively).",
        show_default="the rule's",
    ),
]
ThinkingBudgetOption = Annotated[
    int | None,
    typer.Option(
        "--thinking-budget", rich_help_panel=_CHAINS, help="Thinking tokens, for engines that bound them themselves."
    ),
]
RewardOption = Annotated[
    str,
    typer.Option(
        "--reward",
        rich_help_panel=_REWARDS,
        help="own (the model itself), model or verifier.",
        show_default="the reward model, if one is deployed, else own",
    ),
]
RewardModelOption = Annotated[
    str, typer.Option("--reward-model", rich_help_panel=_REWARDS, help="Which, where there are several.")
]
VerifierOption = Annotated[
    str, typer.Option("--verifier", rich_help_panel=_REWARDS, help="Such as game24 or unit-tests.")
]
TaskOption = Annotated[
    str, typer.Option("--task", rich_help_panel=_REWARDS, help="What the verifier needs to know: numbers, or tests.")
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
    typer.Option(
        "--max-tokens",
        rich_help_panel=_SAMPLING,
        show_default="512; of a chain 4096",
        help="Most tokens of a sample, path or chain.",
    ),
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
    compared_by: str = ""
    model: str = ""
    algorithm: str = SELF_CONSISTENCY
    max_samples: int | None = None
    width: int | None = None
    idle_width: int | None = None
    rule: str = ""
    chain_rule: str = ""
    probe_prompt: str = ""
    probe_interval: int | None = None
    probe_marks: bool | None = None
    thinking_budget: int | None = None
    reward: str = ""
    reward_model: str = ""
    verifier: str = ""
    task: str = ""
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
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                stop=self.stop,
                thinking_token_budget=self.thinking_budget,
            ),
            answer_type=self.answer_type,
            compared_by=self.compared_by,
            model=self.model,
            algorithm=self._algorithm(),
            policy=pb.Policy(rule=self.rule, chain_rule=self.chain_rule),
            probe=pb.Probe(prompt=self.probe_prompt, interval=self.probe_interval, marks=self.probe_marks),
            reward=self._reward(),
            budget=pb.Budget(max_tokens=self.budget_tokens),
            query_class=_CLASSES[self.query_class],
            tenant=self.tenant,
            idempotency_key=self.idempotency_key,
            labels=dict(map(label_of, self.labels)),
        )
        if self.deadline_seconds is not None:
            query.deadline.FromNanoseconds(round(self.deadline_seconds * 1e9))
        if self.is_prompt:
            query.prompt = self.question
        else:
            query.chat.messages.add(role="user", content=self.question)
        return query

    def _refuse_what_does_not_fit(self) -> None:
        numbers = (
            (self.max_samples, "max-samples", 31),
            (self.width, "width", 31),
            (self.idle_width, "idle-width", 31),
            (self.max_tokens, "max-tokens", 31),
            (self.probe_interval, "probe-interval", 31),
            (self.thinking_budget, "thinking-budget", 31),
            (self.budget_tokens, "budget-tokens", 63),
        )
        for number, option, bits in numbers:
            if number is not None and abs(number) >= 2**bits:
                raise bad_input(f"--{option} is {number}; give a smaller number", Reason.INVALID_QUERY)
        seconds = self.deadline_seconds
        if seconds is not None and not abs(seconds) < _LONGEST_DURATION_SECONDS:
            raise bad_input(f"--deadline is {seconds:g}; give a number of seconds", Reason.INVALID_QUERY)

    def _algorithm(self) -> pb.Algorithm:
        if self.algorithm.strip() == SELF_CONSISTENCY:
            typed = pb.SelfConsistency(max_samples=self.max_samples, width=self.width, idle_width=self.idle_width)
            return pb.Algorithm(self_consistency=typed)
        for value, option, name in (
            (self.max_samples, "--max-samples", "max_samples"),
            (self.width, "--width", "width"),
            (self.idle_width, "--idle-width", "idle_width"),
        ):
            if value is not None:
                right = f"write --algorithm {self.algorithm.partition(':')[0]}:{name}={value}, if it has that parameter"
                raise bad_input(f"{option} is for {SELF_CONSISTENCY}; {right}", Reason.INVALID_QUERY)
        return pb.Algorithm(type_string=self.algorithm)

    def _reward(self) -> pb.Reward:
        source = self.reward or ("verifier" if self.verifier else "model" if self.reward_model else "")
        return pb.Reward(source=source, model=self.reward_model, verifier=self.verifier, task=self.task)


def takes_query(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command all options that describe a query, behind its own; it gets them as its argument `query`."""

    @wraps(command)
    def with_query(**values: Any) -> None:
        of_query = {name: values.pop(name) for name in _PARAMETERS}
        of_query["stop"], of_query["label"] = tuple(of_query["stop"] or ()), tuple(of_query["label"] or ())
        of_query["question"] = read_question(of_query["question"])
        renamed = {_FIELDS.get(name, name): value for name, value in of_query.items()}
        command(QueryOptions(**renamed), **values)

    declared = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in declared]
    question, *others = _PARAMETERS.values()
    parameters = [question, *own, *others]
    with_query.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_query.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_query


def _option(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_PARAMETERS = {
    each.name: each
    for each in (
        _option("question", QuestionArgument),
        _option("prompt", PromptOption, False),
        _option("system", SystemOption, ""),
        _option("answer_type", AnswerTypeOption, "text"),
        _option("compared_by", ComparedByOption, ""),
        _option("model", ModelOption, ""),
        _option("algorithm", AlgorithmOption, SELF_CONSISTENCY),
        _option("max_samples", MaxSamplesOption, None),
        _option("width", WidthOption, None),
        _option("idle_width", IdleWidthOption, None),
        _option("rule", RuleOption, ""),
        _option("budget_tokens", BudgetOption, 0),
        _option("deadline", DeadlineOption, None),
        _option("temperature", TemperatureOption, None),
        _option("top_p", TopPOption, None),
        _option("max_tokens", MaxTokensOption, None),
        _option("stop", StopOption, None),
        _option("chain_rule", ChainRuleOption, ""),
        _option("probe_prompt", ProbePromptOption, ""),
        _option("probe_interval", ProbeIntervalOption, None),
        _option("probe_marks", ProbeMarksOption, None),
        _option("thinking_budget", ThinkingBudgetOption, None),
        _option("reward", RewardOption, ""),
        _option("reward_model", RewardModelOption, ""),
        _option("verifier", VerifierOption, ""),
        _option("task", TaskOption, ""),
        _option("query_class", ClassOption, ClassName.STANDARD),
        _option("tenant", TenantOption, "default"),
        _option("idempotency_key", IdempotencyKeyOption, ""),
        _option("label", LabelOption, None),
    )
}
# Options whose field has another name.
_FIELDS = {"prompt": "is_prompt", "deadline": "deadline_seconds", "label": "labels"}


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


def label_of(text: str) -> tuple[str, str]:
    """The key and the value of `KEY=VALUE`. Raises `CommandFailed`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise bad_input(f"the label {text!r} is not KEY=VALUE")
    return key, value

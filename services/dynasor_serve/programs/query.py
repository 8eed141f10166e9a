"""What a user asks, after validation: the input of every program.

`gateway.conversion` builds a `Query` from the wire and calls `validated`; trackers read it back from the first record
of the program's log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.certaindex.similarities import parse_similarity
from dynasor_serve.programs.unit_tests_task import UnreadableTask
from dynasor_serve.programs.verifier_tasks import TASK_CHECKS, check_unit_tests

QueryId = NewType("QueryId", str)
Branch = NewType("Branch", int)

MAX_PROMPT_CHARACTERS = 1_000_000
# `max_tokens` that nobody has chosen: the gateway takes the algorithm's default, as far as the context allows.
TOKENS_OF_THE_POOL = 0
MAX_PROBE_CHARACTERS = 4000
MAX_PROBE_TOKENS = 1024
MAX_INTERVAL = 1_000_000
MAX_STOP_STRINGS = 8
MAX_LABELS = 32
MAX_NAME_CHARACTERS = 253
# Those that the evaluator has; a name that it does not know would judge every path worthless.
VERIFIERS = tuple(TASK_CHECKS)
MAX_DEADLINE_SECONDS = 24 * 3600.0
ROLES = ("system", "user", "assistant")


class InvalidQuery(ValueError):
    """A query that cannot be accepted.

    Attributes:
        field: path of the offending field, such as `algorithm.self_consistency.max_samples`.
    """

    def __init__(self, field: str, wrong: str, right: str) -> None:
        super().__init__(f"{field}: {wrong}; {right}")
        self.field = field


class QueryClass(StrEnum):
    """How urgent a query is, most urgent first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How each call samples. Branches must differ for a vote to mean something, hence the warm default."""

    temperature: float = 0.8
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int = 512  # completion tokens of one call
    stop: tuple[str, ...] = ()
    seed: int | None = None  # of branch 0; branch i samples with seed + i
    thinking_token_budget: int | None = None  # passed to engines that bound the thinking themselves


class RewardSource(StrEnum):
    """Who gives a path its reward."""

    OWN = "own"  # the same model: its probability of "Yes" to whether the solution is correct
    MODEL = "model"  # a reward model, in a pool of its own
    VERIFIER = "verifier"  # a program: the evaluator runs it


@dataclass(frozen=True, slots=True)
class RewardParameters:
    """Where rewards come from, for the algorithms that need them."""

    source: RewardSource = RewardSource.OWN
    pool: str = ""  # of the reward model; the gateway fills it in from the model's name
    model: str = ""
    verifier: str = ""  # such as `game24`
    task: str = ""  # what the verifier needs to know


@dataclass(frozen=True, slots=True)
class ProbeParameters:
    """How chains are probed; what is None or empty follows the rule."""

    prompt: str = ""  # the name of a built-in prompt, or the text put behind the chain
    interval: int | None = None  # tokens between probes; 0 for none
    marks: bool | None = None  # whether reflection marks ("Wait") are probed
    max_tokens: int = 20  # of a probe


@dataclass(frozen=True, slots=True)
class Query:
    """A validated query with its defaults filled in."""

    model: str
    rule: str  # type string, such as "beta-posterior:confidence=0.95"
    messages: tuple[Message, ...] = ()  # empty exactly when `prompt` is set
    prompt: str | None = None
    sampling: SamplingParameters = SamplingParameters()
    answer_type: AnswerType = AnswerType.TEXT
    compared_by: str = ""  # of `code` the tests, of `free-text` the similarity's type string
    algorithm: str = "self-consistency"  # type string
    chain_rule: str = ""  # type string; set exactly where branches are chains that a rule of their own stops
    probe: ProbeParameters = ProbeParameters()
    reward: RewardParameters | None = None  # set exactly where paths are judged
    max_tokens: int = 0  # completion tokens over all calls; 0 = the algorithm's cap alone
    deadline_seconds: float = 600.0
    query_class: QueryClass = QueryClass.STANDARD
    tenant: str = "default"
    idempotency_key: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def validated(query: Query) -> Query:
    """Returns the query unchanged, or raises `InvalidQuery` naming the first field that is wrong."""
    _check_input(query)
    _check_sampling(query.sampling)
    _check_probe(query.probe)
    _check_comparison(query)
    if query.reward is not None:
        _check_reward(query.reward)
    if query.max_tokens < 0:
        raise InvalidQuery("budget.max_tokens", f"is {query.max_tokens}", "give 0 for no bound, or a positive number")
    if not 0 < query.deadline_seconds <= MAX_DEADLINE_SECONDS:
        raise InvalidQuery(
            "deadline",
            f"is {query.deadline_seconds:g} s, which has passed or is too far",
            f"give more than 0 and at most {MAX_DEADLINE_SECONDS:g} seconds from now",
        )
    for name, value in (("tenant", query.tenant), ("idempotency_key", query.idempotency_key), ("model", query.model)):
        if len(value) > MAX_NAME_CHARACTERS:
            raise InvalidQuery(name, f"has {len(value)} characters", f"give at most {MAX_NAME_CHARACTERS}")
    _check_labels(query.labels)
    return query


def _check_input(query: Query) -> None:
    if query.prompt is not None:
        if query.messages:
            raise InvalidQuery("input", "has both a prompt and messages", "give one of them")
        if not query.prompt.strip():
            raise InvalidQuery("prompt", "is empty", "give the text of the question")
        texts = [query.prompt]
    else:
        if not any(message.role != "system" for message in query.messages):
            raise InvalidQuery("input", "is missing", "give a prompt, or chat messages with a user's turn")
        for i, message in enumerate(query.messages):
            if message.role not in ROLES:
                raise InvalidQuery(
                    f"chat.messages[{i}].role", f"is {message.role!r}", f"give one of {', '.join(ROLES)}"
                )
            if message.role != "assistant" and not message.content.strip():
                raise InvalidQuery(f"chat.messages[{i}].content", "is empty", "give the text of the turn")
        texts = [message.content for message in query.messages]
    characters = sum(map(len, texts))
    if characters > MAX_PROMPT_CHARACTERS:
        raise InvalidQuery("input", f"has {characters} characters", f"give at most {MAX_PROMPT_CHARACTERS}")


def _check_sampling(sampling: SamplingParameters) -> None:
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    if not (math.isfinite(temperature) and 0 <= temperature <= 2):
        raise InvalidQuery("sampling.temperature", f"is {temperature:g}", "give a number from 0 to 2")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidQuery("sampling.top_p", f"is {top_p:g}", "give a number above 0 and at most 1")
    if top_k is not None and top_k < 0:
        raise InvalidQuery("sampling.top_k", f"is {top_k}", "give 0 for all tokens, or a positive number")
    if sampling.max_tokens < 1:
        raise InvalidQuery("sampling.max_tokens", f"is {sampling.max_tokens}", "give at least 1 token")
    thinking = sampling.thinking_token_budget
    if thinking is not None and thinking < 0:
        raise InvalidQuery("sampling.thinking_token_budget", f"is {thinking}", "give 0 tokens or more")
    if len(sampling.stop) > MAX_STOP_STRINGS:
        raise InvalidQuery("sampling.stop", f"has {len(sampling.stop)} strings", f"give at most {MAX_STOP_STRINGS}")
    if any(not text for text in sampling.stop):
        raise InvalidQuery("sampling.stop", "holds an empty string", "leave it out")


def _check_probe(probe: ProbeParameters) -> None:
    if len(probe.prompt) > MAX_PROBE_CHARACTERS:
        wrong = f"has {len(probe.prompt)} characters"
        raise InvalidQuery("probe.prompt", wrong, f"give at most {MAX_PROBE_CHARACTERS}")
    if probe.interval is not None and not 0 <= probe.interval <= MAX_INTERVAL:
        raise InvalidQuery("probe.interval", f"is {probe.interval}", f"give 0 for none, or up to {MAX_INTERVAL} tokens")
    if not 1 <= probe.max_tokens <= MAX_PROBE_TOKENS:
        raise InvalidQuery("probe.max_tokens", f"is {probe.max_tokens}", f"give 1 to {MAX_PROBE_TOKENS}")


def _check_comparison(query: Query) -> None:
    match query.answer_type:
        case AnswerType.CODE:
            try:
                check_unit_tests(query.compared_by)
            except UnreadableTask as error:
                raise InvalidQuery("compared_by", error.wrong, error.right) from error
        case AnswerType.FREE_TEXT:
            try:
                parse_similarity(query.compared_by)
            except InvalidRule as error:
                raise InvalidQuery("compared_by", error.problem, error.remedy) from error
        case _ if query.compared_by:
            right = f"leave it out, or give answer_type {AnswerType.FREE_TEXT} or {AnswerType.CODE}"
            raise InvalidQuery("compared_by", f"is set, and answers of type {query.answer_type} need nothing", right)


def _check_reward(reward: RewardParameters) -> None:
    if reward.source is RewardSource.VERIFIER and reward.verifier not in VERIFIERS:
        wrong = f"is {reward.verifier!r:.60}" if reward.verifier else "is missing"
        raise InvalidQuery("reward.verifier", wrong, f"give one of {', '.join(VERIFIERS)}")
    if len(reward.task) > MAX_PROMPT_CHARACTERS:
        wrong = f"has {len(reward.task)} characters"
        raise InvalidQuery("reward.task", wrong, f"give at most {MAX_PROMPT_CHARACTERS}")
    if reward.source is RewardSource.VERIFIER:
        try:
            TASK_CHECKS[reward.verifier](reward.task)
        except UnreadableTask as error:
            raise InvalidQuery("reward.task", error.wrong, error.right) from error


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidQuery("labels", f"has {len(labels)} entries", f"give at most {MAX_LABELS}")
    for key, value in labels.items():
        if not key or len(key) > MAX_NAME_CHARACTERS or len(value) > MAX_NAME_CHARACTERS:
            raise InvalidQuery(
                f"labels[{key[:40]!r}]", "is empty or too long", f"give 1 to {MAX_NAME_CHARACTERS} characters each"
            )

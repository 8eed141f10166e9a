"""What a rule is, what it watches, and how a wrong one is refused."""

from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.certaindex.votes import Votes


class Evidence(StrEnum):
    """What a rule watches; the strings are those of the catalogue."""

    VOTES = "votes"  # the finished samples of a program, as `Votes`
    CHAIN = "chain"  # the trial answers of one chain, as `Trials`


@runtime_checkable
class Rule(Protocol):
    """What all rules have in common. Answers: given the evidence so far, is more work worth it?

    A rule is a pure function of its evidence. It is asked at each arrival, and again when the evaluator merges clusters
    that finished long ago, so it must not count on being asked at every step. It never stops a program that has no
    real answer.

    A rule's `verdict` takes what it watches: it is a `VoteRule`, a `ChainRule` or both. `watches` says which;
    `isinstance` sees the names of methods only, not what they take.
    """

    name: ClassVar[str]
    """The type string: the same in configuration, metrics and logs."""

    watches: ClassVar[frozenset[Evidence]]
    """The kinds of evidence that `verdict` takes."""

    def describe(self) -> str:
        """Return one sentence for people: what this rule, with its parameters, does."""
        ...


@runtime_checkable
class VoteRule(Rule, Protocol):
    """A rule over finished samples (`Evidence.VOTES`). A tree's paths and a program's chains are samples too."""

    def verdict(self, votes: Votes, /) -> Verdict:
        """Return what to do now, with the reason."""
        ...


@runtime_checkable
class ChainRule(Rule, Protocol):
    """A rule over the trial answers of one chain (`Evidence.CHAIN`)."""

    @property
    def schedule(self) -> ProbeSchedule:
        """When the chain is to be asked for a trial answer."""
        ...

    def verdict(self, trials: Trials, /) -> Verdict:
        """Return what to do now, with the reason."""
        ...

    def certaindex(self, trials: Trials, /) -> float:
        """Return how settled the chain is, in [0, 1], by the measure that this rule stops on."""
        ...


def token_window(rule: Rule) -> int:
    """Return the tokens per group of the lowest group confidence that a rule watches; 0 if it watches none.

    A rule says so by an attribute of this name. Its branches are streamed with the log-probabilities of every token.
    """
    return int(getattr(rule, "token_window", 0))


def reads_tokens(rule: Rule) -> bool:
    """Whether a rule reads `Votes.tokens`; it says so by a class variable of this name."""
    return bool(getattr(rule, "reads_tokens", False))


class InvalidRule(ValueError):
    """A rule that cannot be built.

    Attributes:
        field: what is wrong: `rule`, or `rule.<parameter>`.
        problem: how it is wrong.
        remedy: what would be right.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["InvalidRule"], tuple[str, str, str]]:
        return InvalidRule, (self.field, self.problem, self.remedy)

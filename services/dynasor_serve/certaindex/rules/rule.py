"""What a rule is, and how a wrong one is refused."""

from typing import ClassVar, Protocol, runtime_checkable

from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.certaindex.votes import Votes


@runtime_checkable
class Rule(Protocol):
    """Answers: given the votes so far, is more work worth it?

    A rule is a pure function of the votes. It is asked at each arrival, and again when the evaluator merges clusters
    that finished long ago, so it must not count on being asked at every step. It never stops a program that has no
    real answer.
    """

    name: ClassVar[str]
    """The type string: the same in configuration, metrics and logs."""

    def verdict(self, votes: Votes) -> Verdict:
        """Return what to do now, with the reason."""
        ...

    def describe(self) -> str:
        """Return one sentence for people: what this rule, with its parameters, does."""
        ...


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

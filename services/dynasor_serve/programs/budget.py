"""What a query's token budget means for its calls: the bound of each one, and what is kept until there is an answer.

A budget bounds the completion tokens of all calls together, and calls run side by side, so it could be spent before any
of them has come to an answer. Therefore a part is kept that is enough for one of them to come to its end:
`program.Program.budget_now` is the budget without it, and `algorithm.Algorithm.hastened` says which call spends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from dynasor_serve.programs.calls import SAMPLE, CallPlan
from dynasor_serve.programs.query import Query


@dataclass(frozen=True, slots=True)
class Reserve:
    """The part of a budget that is kept until there is an answer.

    It is spent once. Where it was in vain, one after the other goes on alone with what is left of the budget.

    Attributes:
        tokens: completion tokens that are kept; 0 where nothing is, or no longer.
        spender: the number of the sample, path, round or chain that goes on alone.
        is_in_vain: they are spent, and there is no answer.
    """

    tokens: int = 0
    spender: int | None = None
    is_in_vain: bool = False

    @classmethod
    def of(cls, query: Query) -> Self:
        """Enough for one whole sample, path or round."""
        return cls(tokens_of_one(query)) if query.max_tokens else cls()

    @property
    def is_being_spent(self) -> bool:
        """Whether what is left of the budget is kept for the call that runs, which no other bound need end."""
        return self.spender is not None and not self.is_in_vain

    @property
    def wants_spender(self) -> bool:
        """Whether somebody is to go on alone once no more than this is left."""
        return self.tokens > 0 or (self.is_in_vain and self.spender is None)

    def spent_by(self, number: int) -> Self:
        """Hands it to the one that is to bring the answer."""
        return replace(self, tokens=0, spender=number)

    def settled(self, number: int, *, is_answered: bool) -> Self:
        """One has ended. With an answer nothing need be kept."""
        if is_answered:
            return type(self)()
        return replace(self, spender=None, is_in_vain=True) if number == self.spender else self


def tokens_of_one(query: Query) -> int:
    """Most completion tokens of one sample, path, round or chain: no more than the whole budget."""
    return min(query.sampling.max_tokens, query.max_tokens or query.sampling.max_tokens)


def sample_call(query: Query) -> CallPlan:
    """The query as it stands, within its budget."""
    within = tokens_of_one(query)
    return SAMPLE if within == query.sampling.max_tokens else CallPlan(max_tokens=within)

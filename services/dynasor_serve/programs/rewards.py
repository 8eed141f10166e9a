"""Who judges a path, and what is it asked? One interface for reward models, the model's own judgement and verifiers.

A reward model and the model itself are asked by a call of the program's own, so their cost is in the ledger; a verifier
is a program that the evaluator runs (`Algorithm.unverified`). A path whose reward cannot be had counts as 0.
"""

from __future__ import annotations

from typing import Final

from dynasor_serve.programs.calls import CallPlan, Judge
from dynasor_serve.programs.query import RewardParameters, RewardSource

# P(True) of Kadavath et al. 2022 (arXiv 2207.05221): the probability of "Yes" against "No" as the next token. It is put
# behind the path, whose prefix the engine has cached, not into a turn of its own.
_IS_CORRECT: Final = "\n\nQuestion: Is the solution above correct? Answer Yes or No.\nAnswer:"
_IS_PROMISING: Final = "\n\nQuestion: Is the solution so far correct? Answer Yes or No.\nAnswer:"


def reward_call(reward: RewardParameters, path: str, *, is_complete: bool) -> CallPlan:
    """The call that asks for a path's reward; its evidence carries `reward`.

    Args:
        reward: who judges: the model itself or a reward model.
        path: the text of the path.
        is_complete: whether it has an answer already.
    """
    assert reward.source is not RewardSource.VERIFIER, "a verifier is no engine"
    if reward.source is RewardSource.MODEL:
        return CallPlan(continuation=path, judge=Judge.MODEL, pool=reward.pool, max_tokens=1)
    return CallPlan(
        continuation=path,
        suffix=_IS_CORRECT if is_complete else _IS_PROMISING,
        closes_thinking=True,
        max_tokens=1,
        temperature=0.0,
        stop=(),
        judge=Judge.OWN,
    )

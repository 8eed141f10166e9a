"""Which recorded sample answers a call?

The sample follows from the branch alone, so that a retry of a call gets the same completion. Branch b of a
record with k samples gets sample b mod k: asking for more branches than were recorded goes round again.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

# A call id: program/branch/attempt, such as 03-01HV/7/1.2 (attempts may carry an epoch).
_CALL_ID: Final = re.compile(r".+/(\d+)/[\d.]+")

#: Request field and key that carry the branch where the request id does not: `vllm_xargs: {"dynasor.branch": 7}`.
BRANCH_ARGUMENT: Final = "dynasor.branch"


def branch_of_call_id(request_id: str) -> int | None:
    """Return the branch that a call id `PROGRAM/BRANCH/ATTEMPT` names; None when it is not of that form."""
    match = _CALL_ID.fullmatch(request_id)
    return int(match[1]) if match else None


class SampleChooser:
    """Chooses samples for calls: by branch where it is known, else in turn per question.

    Calls without a branch go round the samples in order of arrival; this is the only state here.
    """

    def __init__(self) -> None:
        self._calls_in_turn: Counter[str] = Counter()  # question key -> choices given so far

    def first_choice(self, question_key: str, branch: int | None, choices: int) -> int:
        """Return the number of a call's first choice; choice i takes sample (number + i) mod samples.

        Args:
            question_key: What calls without a branch take turns on.
            branch: The call's branch, where the client told. A call with n > 1 choices takes n samples, so
                branch b begins at b · n.
            choices: The call's n.
        """
        if branch is not None:
            return branch * choices
        number = self._calls_in_turn[question_key]
        self._calls_in_turn[question_key] += choices
        return number

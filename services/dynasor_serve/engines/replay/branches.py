"""Which of several recorded alternatives answers a call: of samples, of chains, of a node's thoughts?

The alternative follows from the branch alone, so that a retry of a call gets the same completion. Branch b gets
alternative b mod k of k: asking for more branches than were recorded goes round again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from typing import Final

# A call id: program/branch/attempt, such as 03-01HV/7/1.2 (attempts may carry an epoch), and more behind it where a
# call belongs to another: a probe's 03-01HV/7/1.2.p3, or 03-01HV/7/1.2/p3.
_CALL_ID: Final = re.compile(r".+/(\d+)/\d+(?:\.\w+)*(?:/[^\d/][^/]*)*")

#: Request field and key that carry the branch where the request id does not: `vllm_xargs: {"dynasor.branch": 7}`.
BRANCH_ARGUMENT: Final = "dynasor.branch"


def branch_of_call_id(request_id: str) -> int | None:
    """Return the branch that a call id `PROGRAM/BRANCH/ATTEMPT[...]` names; None when it is not of that form."""
    match = _CALL_ID.fullmatch(request_id)
    return int(match[1]) if match else None


class AlternativeChooser:
    """Chooses alternatives for calls: by branch where it is known, else in turn per place of a recording.

    Calls without a branch go round the alternatives in order of arrival; this is the only state here.
    """

    def __init__(self) -> None:
        self._calls_in_turn: Counter[Hashable] = Counter()  # (recording, place) -> choices given so far

    def first(self, place: tuple[Hashable, str | None], branch: int | None, choices: int) -> int:
        """Return the number of a call's first choice; choice i takes alternative (number + i) mod alternatives.

        Args:
            place: The recording, and what in it calls without a branch take turns on; None: there is nothing to choose.
            branch: The call's branch, where the client told. A call with n > 1 choices takes n alternatives, so
                branch b begins at b · n.
            choices: The call's n.
        """
        if branch is not None:
            return branch * choices
        if place[1] is None:
            return 0
        number = self._calls_in_turn[place]
        self._calls_in_turn[place] += choices
        return number

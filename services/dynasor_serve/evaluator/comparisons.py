"""Do two answers that are no mathematics say, or do, the same?

Called by the servicer with the pairs that trackers could not decide by their keys; `equality_pool` is for mathematics.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.certaindex.similarities import parse_similarity
from dynasor_serve.evaluator.equality_pool import Equality
from dynasor_serve.evaluator.verification_pool import VerificationPool
from dynasor_serve.evaluator.verifiers.verifier import InvalidTask, Status, VerifierUnavailable

logger = logging.getLogger(__name__)

_Pair = tuple[str, str]


class Comparison(Protocol):
    """Compares answers of one type."""

    async def decide(
        self, pairs: Sequence[_Pair], compared_by: str, *, program: str = "", within_seconds: float | None = None
    ) -> list[Equality]:
        """Return what is known of each pair of keys, in order.

        Args:
            compared_by: the query's.
            program: whose answers they are.
            within_seconds: how long to wait; what is not decided by then is not reached. None waits for all.
        """
        ...


class TextComparison:
    """Compares free text by a similarity."""

    async def decide(
        self, pairs: Sequence[_Pair], compared_by: str, *, program: str = "", within_seconds: float | None = None
    ) -> list[Equality]:
        """Ask the similarity, in a thread. One that is not installed here leaves all undecided."""
        return await asyncio.to_thread(_say_same, pairs, compared_by, within_seconds)


class CodeComparison:
    """Compares programs by what they do on the query's tests.

    Each program is run once, whatever the number of pairs that it is in.

    Args:
        behaviour: a pool of the verifier `behaviour`.
    """

    def __init__(self, behaviour: VerificationPool) -> None:
        self._behaviour = behaviour

    async def decide(
        self, pairs: Sequence[_Pair], compared_by: str, *, program: str = "", within_seconds: float | None = None
    ) -> list[Equality]:
        """Run the programs. Undecided are those that do not run, and all where nothing may be run."""
        programs = list(dict.fromkeys(each for pair in pairs for each in pair))
        try:
            verdicts = await self._behaviour.verify(
                compared_by, programs, program=program, within_seconds=within_seconds
            )
        except (InvalidTask, VerifierUnavailable) as error:
            logger.warning("programs are not compared", extra={"query_id": program, "cause": str(error)})
            return [Equality.UNDECIDED] * len(pairs)
        known = dict(zip(programs, verdicts, strict=True))
        decisions = []
        for left, right in pairs:
            statuses = {known[left].status, known[right].status}
            if Status.UNDECIDED in statuses:
                decisions.append(Equality.UNDECIDED)
            elif Status.NOT_REACHED in statuses:
                decisions.append(Equality.NOT_REACHED)
            else:
                is_alike = known[left].detail == known[right].detail
                decisions.append(Equality.EQUAL if is_alike else Equality.DIFFERENT)
        return decisions


def _say_same(pairs: Sequence[_Pair], compared_by: str, within_seconds: float | None) -> list[Equality]:
    try:
        similarity = parse_similarity(compared_by)
    except InvalidRule as error:  # the gateway has it, and this evaluator does not
        logger.error("texts are not compared", extra={"cause": str(error)})
        return [Equality.UNDECIDED] * len(pairs)
    began = time.monotonic()
    decisions = []
    for left, right in pairs:
        if within_seconds is not None and time.monotonic() - began > within_seconds:
            decisions.append(Equality.NOT_REACHED)
        else:
            decisions.append(Equality.EQUAL if similarity.says_same(left, right) else Equality.DIFFERENT)
    return decisions

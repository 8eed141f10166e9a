"""A recorded search tree under a rule: its paths are complete one after the other, in the order of generation.

A path that is complete is judged by the value recorded for it, and the program chooses among those as `rebase` does
live: majority weighted by reward. Stopping saves the thoughts that were generated afterwards; what judging them cost is
not recorded, so it is in neither figure.
"""

from __future__ import annotations

from collections import defaultdict

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.rules.rule import VoteRule
from dynasor_serve.engines.replay.records import FinalCandidate, StepsRecord
from dynasor_serve.engines.replay.tree import thoughts, with_single_breaks
from dynasor_serve.programs.judged_paths import JudgedPaths
from dynasor_serve.simulation.outcomes import Ending, Ladder, Replayed, TraceUnscorable


class RecordedTree:
    """One recorded search, run to its end.

    Attributes:
        judged: after each complete path.
        endings: what choosing then would have scored and cost.
    """

    def __init__(self, record: StepsRecord) -> None:
        """Reads a record. Raises `TraceUnscorable` where it does not say which of its final candidates are right."""
        if not record.final or any(final.correct is None for final in record.final):
            raise TraceUnscorable("final candidates and their `correct` are needed: record how the search ended")
        self.judged: list[JudgedPaths] = []
        self.endings: list[Ending] = []
        self._has_answers = any(final.answer is not None for final in record.final)
        self._rights: list[bool] = []
        self._grow(record)

    def replay(self, rule: VoteRule) -> Replayed:
        """Asks a rule at each complete path."""
        cap = len(self.judged)
        stop = next((at for at in range(cap - 1) if rule.verdict(self.judged[at].votes(cap)).stops), cap - 1)
        return Replayed(self.endings[stop], self.endings[-1])

    def ladder(self) -> Ladder:
        """What a cap of 1, 2, … paths would have scored."""
        return self.endings

    def _grow(self, record: StepsRecord) -> None:
        finals: defaultdict[str, list[FinalCandidate]] = defaultdict(list)
        for final in record.final:
            finals[with_single_breaks(final.y or final.thought or "")].append(final)
        spent = 0
        for thought in thoughts(record):
            spent += thought.tokens
            ends = finals.get(with_single_breaks(thought.path))
            if ends:
                value = thought.candidate.value
                self._complete(record, ends.pop(0), None if value is None else value / record.value_scale, spent)
        for final in (each for ends in finals.values() for each in ends):
            self._complete(record, final, None, spent)

    def _complete(self, record: StepsRecord, final: FinalCandidate, reward: float | None, spent: int) -> None:
        answer = record.as_written(final.answer) if self._has_answers else final.y or final.thought
        before = self.judged[-1] if self.judged else JudgedPaths.start(AnswerType.TEXT)
        self._rights.append(bool(final.correct))
        tokens = spent - round(self.endings[-1].tokens) if self.endings else spent
        self.judged.append(before.with_judged(len(self.judged), answer, reward or 0.0, tokens))
        chosen = self.judged[-1].heaviest()
        is_right = chosen is not None and chosen.answer is not None and self._rights[chosen.path]
        self.endings.append(Ending(is_right, spent))

"""Recorded votes as programs for a virtual pool: the same queries, whose calls say what was recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynasor_serve.engines.replay.records import SamplesRecord
from dynasor_serve.engines.replay.traces import Place, TraceFormatError, placed_records
from dynasor_serve.programs.query import Branch, Query
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.orderings.registry import parse_ordering
from dynasor_serve.scheduling.pool import Pool
from dynasor_serve.simulation.replay import RunKey, check_new
from dynasor_serve.simulation.virtual_pool import Reply
from dynasor_serve.simulation.votes import Ballot, ballots_of

_ENDLESS_SECONDS = 1e9
#: Nothing overtakes an ordering but the bound in fair shares. The bound in seconds would: where a pool is short for
#: longer than that, the order becomes that of arrival.
FAIRNESS = Fairness(longest_wait_seconds=_ENDLESS_SECONDS)


@dataclass(frozen=True, slots=True)
class RecordedProgram:
    """One recorded vote, its samples in the order in which they start.

    Attributes:
        question_id: of its question.
        replies: one per sample.
        right_answers: the answers, as in the replies, that are right.
    """

    question_id: str
    replies: tuple[Reply, ...]
    right_answers: frozenset[str]

    @classmethod
    def of(cls, question_id: str, started: Sequence[Ballot]) -> RecordedProgram:
        """Names the answers by the order in which they are first seen: what they say does not matter to a vote."""
        names: dict[str | int, str] = {}
        right = set()
        replies = []
        for ballot in started:
            name = None
            if ballot.answer is not None:
                is_new = ballot.answer not in names
                name = names.setdefault(ballot.answer, f"answer {len(names)}")
                if is_new and ballot.is_right:  # equal answers are equally right, as the first
                    right.add(name)
            replies.append(Reply(name, round(ballot.tokens)))
        return cls(question_id, tuple(replies), frozenset(right))

    @property
    def tokens(self) -> int:
        """Completion tokens of all samples."""
        return sum(reply.tokens for reply in self.replies)

    def query(self, *, width: int, rule: str, idle_width: int = 0) -> Query:
        """The query whose program it is, with all recorded samples as its cap and no deadline of its own."""
        algorithm = f"self-consistency:max_samples={len(self.replies)},width={width},idle_width={idle_width}"
        return Query("recorded", rule, prompt="?", algorithm=algorithm, deadline_seconds=_ENDLESS_SECONDS)

    def reply(self, branch: Branch) -> Reply:
        """What one of its calls says."""
        return self.replies[branch]


def recorded_votes(files: Iterable[Path]) -> dict[RunKey, list[tuple[str, tuple[Ballot, ...]]]]:
    """The votes of files, run by run: (question, samples). What is no vote is left out, and so are verifiable ones.

    Raises:
        TraceFormatError: a line is no record or says what another has said, or there is no vote.
    """
    runs: defaultdict[RunKey, list[tuple[str, tuple[Ballot, ...]]]] = defaultdict(list)
    seen: dict[tuple[object, ...], Place] = {}
    for place, record in placed_records(files):
        check_new(seen, place, record)
        if isinstance(record, SamplesRecord) and not record.verifiable and any(each.tokens for each in record.samples):
            runs[RunKey.of(record, "votes")].append((record.question_id, ballots_of(record)))
    if not runs:
        raise TraceFormatError("the files hold no vote; give records of kind samples that are not verifiable")
    return dict(runs)


def pool_of(ordering: str, places: int, workers: int) -> Pool:
    """A pool of at most so many ready workers that share the places as evenly as they can be shared."""
    pool = Pool(parse_ordering(ordering), FAIRNESS)
    workers = min(workers, places)
    for number in range(workers):
        name = f"worker-{number}"
        pool.add_worker(name, "", "replay", (places + number) // workers)
        pool.worker_health(name, healthy=True)
    return pool

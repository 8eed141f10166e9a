"""Recorded votes as the profiler takes them: programs whose answers are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dynasor_serve.certaindex.labelled_runs import LabelledRun, ProfileError
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.engines.replay.records import SamplesRecord
from dynasor_serve.engines.replay.traces import Place, placed_records
from dynasor_serve.simulation.replay import RunKey, check_new
from dynasor_serve.simulation.votes import Arrivals, VoteReplay, ballots_of


def labelled_votes(files: Iterable[Path], *, cap: int | None = None, seed: int = 0) -> list[LabelledRun]:
    """Reads recorded votes as the profiler takes them: one program per question and run, its samples shuffled once.

    Args:
        files: of the trace format, or directories of them; what is no vote, or is verifiable, is left out.
        cap: samples of each; questions that have fewer are left out. None takes the fewest that a question has.
        seed: of the shuffles.

    Raises:
        TraceFormatError: a line is no record, or says what another line of its file has said.
        ProfileError: no question has as many samples.
    """
    votes = []
    seen: dict[tuple[object, ...], Place] = {}
    for place, record in placed_records(files):
        check_new(seen, place, record)
        if isinstance(record, SamplesRecord) and not record.verifiable:
            started = list(ballots_of(record))
            RunKey.of(record, "votes").shuffler(seed, record.question_id).shuffle(started)
            votes.append(started)
    most = cap or min(map(len, votes), default=0)
    replay = VoteReplay(width=1)
    runs = [labelled(replay.arrivals(started[:most])) for started in votes if most and len(started) >= most]
    if not runs:
        raise ProfileError(f"no recorded vote has {most or 'any'} samples; give samples records, or a smaller cap")
    return runs


def labelled(arrivals: Arrivals) -> LabelledRun:
    """A vote that ran to its cap, with what is right."""
    votes = Votes(arrivals.labels, len(arrivals.labels), rewards=arrivals.rewards, tokens=arrivals.tokens)
    return LabelledRun(votes, arrivals.rights)

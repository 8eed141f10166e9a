"""A recorded chain of thought under a rule: it is asked again what it was asked, as far as the rule would have asked.

A rule that probes at fixed numbers of tokens takes the recorded probes that fall due by its own clock; one that probes
at reflection marks takes those that were recorded there. A chain that stops at a probe has spent its tokens up to
there, and those of all probes that it was asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dynasor_serve.certaindex.probe_schedule import ProbeClock
from dynasor_serve.certaindex.rules.rule import ChainRule
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.engines.replay.records import ProbesRecord
from dynasor_serve.simulation.outcomes import Ending, Ladder, Replayed, TraceUnscorable


@dataclass(frozen=True, slots=True)
class RecordedTrial:
    """One recorded probe, as a rule sees it and as it is scored.

    Attributes:
        position: tokens of the chain before it.
        label: of the cluster of its answer; None where it gave none.
        is_right: whether that answer is.
        is_hesitant: its reply hesitates.
        confidence: mean probability of the reply's tokens, where recorded.
        tokens: of its reply.
    """

    position: int
    label: int | None
    is_right: bool
    is_hesitant: bool
    confidence: float | None
    tokens: int


@dataclass(frozen=True, slots=True)
class RecordedChain:
    """One recorded chain.

    Attributes:
        trials: by position.
        is_at_marks: they were asked at reflection marks.
        limit: the most tokens that the chain might have had; 0 where that is not recorded.
        end: of the whole chain, without probes.
        final_cluster: of its final answer, by which a vote over chains counts it; None where it has none.
        cluster_of: label -> cluster.
    """

    trials: tuple[RecordedTrial, ...]
    is_at_marks: bool
    limit: int
    end: Ending
    final_cluster: str | int | None
    cluster_of: tuple[str | int, ...]

    def suits(self, rule: ChainRule) -> bool:
        """Whether the chain was asked the way that the rule asks; a rule that never asks suits every chain."""
        schedule = rule.schedule
        if self.is_at_marks:
            return bool(schedule.marks) or not schedule.interval
        return bool(schedule.interval) or not schedule.marks

    def ladder(self) -> Ladder:
        """What a fixed budget would have scored: cut at the last probe that it pays for, or run to the end."""
        ends = [self.end]
        for each in reversed(self.trials):  # of trials close together, a long one may cost more than a later one
            cut = Ending(each.is_right, each.position + each.tokens)
            if each.label is not None and cut.tokens < ends[-1].tokens:
                ends.append(cut)
        return tuple(reversed(ends))


@dataclass(frozen=True, slots=True)
class StoppedChain:
    """A chain under a rule: what it cost and scored, and the cluster that it would vote for."""

    replayed: Replayed
    cluster: str | int | None


def recorded_chain(record: ProbesRecord) -> RecordedChain:
    """Reads a record. Raises `TraceUnscorable` where it does not say which of its answers are right."""
    if record.answer_correct is None or record.final_correct is None:
        missing = "answer_correct" if record.answer_correct is None else "final_correct"
        raise TraceUnscorable(f"{missing} is missing: record which answers are right, or replay other traces")
    if any(answer and is_right is None for answer, is_right in zip(record.answers, record.answer_correct, strict=True)):
        raise TraceUnscorable("answer_correct is null for an answer: record which are right, or replay other traces")
    clusters = record.answer_cluster or record.answers
    known: dict[str | int, int] = {}
    labels = [
        None if cluster is None or not answer else known.setdefault(cluster, len(known))
        for answer, cluster in zip(record.answers, clusters, strict=True)
    ]
    trials = tuple(
        RecordedTrial(
            position=trial.position,
            label=labels[index],
            is_right=bool(record.answer_correct[index]) and labels[index] is not None,
            is_hesitant=not trial.certain,
            confidence=trial.confidence,
            tokens=trial.tokens,
        )
        for trial, index in zip(record.trials(), _indices(record), strict=True)
    )
    return RecordedChain(
        trials=trials,
        is_at_marks=record.is_probed_at_marks,
        limit=record.budget or 0,
        end=Ending(record.final_correct, record.tokens),
        final_cluster=_final_cluster(record),
        cluster_of=tuple(known),
    )


def replay_chain(chain: RecordedChain, rule: ChainRule) -> StoppedChain:
    """Asks a rule about a chain, probe by probe."""
    clock = None if chain.is_at_marks else ProbeClock(replace(rule.schedule, marks=()))
    asked: list[RecordedTrial] = []
    spent = 0
    for trial in chain.trials if rule.schedule.marks or rule.schedule.interval else ():
        if clock is not None and not clock.due("", trial.position):
            continue
        asked.append(trial)
        spent += trial.tokens
        evidence = _evidence(asked, chain.limit)
        if not rule.verdict(evidence).stops:
            continue
        label = evidence.last
        is_right = any(each.is_right for each in asked if each.label == label and label is not None)
        cluster = None if label is None else chain.cluster_of[label]
        return StoppedChain(Replayed(Ending(is_right, trial.position + spent), chain.end), cluster)
    end = Ending(chain.end.is_right, chain.end.tokens + spent)
    return StoppedChain(Replayed(end, chain.end), chain.final_cluster)


def _evidence(asked: list[RecordedTrial], limit: int) -> Trials:
    return Trials(
        labels=tuple([each.label for each in asked]),
        positions=tuple([each.position for each in asked]),
        confidences=tuple([each.confidence for each in asked]),
        hesitant=tuple([each.is_hesitant for each in asked]),
        limit=limit,
    )


def _indices(record: ProbesRecord) -> list[int]:
    at = record.probe_fields.index("answer_index")
    return [int(row[at]) for row in record.probes]


def _final_cluster(record: ProbesRecord) -> str | int | None:
    """The cluster of the final answer: as recorded, that of an equal or equally right trial, or one of its own."""
    if record.final_cluster is not None or not record.final_answer:
        return record.final_cluster
    clusters = record.answer_cluster or record.answers
    equal = (
        cluster
        for answer, is_right, cluster in zip(record.answers, record.answer_correct or (), clusters, strict=True)
        if answer == record.final_answer or (is_right and record.final_correct)
    )
    return next(equal, None) or record.final_answer

"""Rules asked about recorded programs: `dynasor replay` without its command line.

Each record is replayed under each rule that watches what it shows: votes and trees under rules over votes, chains under
rules over chains, and chains that are samples of one question under both. The rules are those that serve live traffic.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dynasor_serve.certaindex.rules.registry import parse_chain_rule, parse_rule
from dynasor_serve.certaindex.rules.rule import ChainRule, Evidence, InvalidRule, VoteRule, token_window
from dynasor_serve.engines.replay.records import ProbesRecord, Record, SamplesRecord, StepsRecord
from dynasor_serve.engines.replay.traces import Place, TraceFormatError, placed_records
from dynasor_serve.simulation.chains import RecordedChain, recorded_chain, replay_chain
from dynasor_serve.simulation.outcomes import Replayed, TraceUnscorable
from dynasor_serve.simulation.scores import PlainBudgets, Score, Tally, mean_score
from dynasor_serve.simulation.trees import RecordedTree
from dynasor_serve.simulation.votes import Ballot, RuleAtVotes, VoteReplay, ballots_of

MEAN = "mean"


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How votes are replayed; chains and trees have an order of their own.

    Attributes:
        cap: most samples of a vote; None takes all that a record has.
        width: samples that run side by side.
        shuffles: random orders per question; 0 takes the recorded one.
        seed: of the shuffles.
        chain_rule: settles the chains that are samples of one vote before they vote; None lets them run to their end.
    """

    cap: int | None = None
    width: int = 1
    shuffles: int = 20
    seed: int = 0
    chain_rule: str | None = None


class RunKey(NamedTuple):
    """What is scored by itself: the questions of one dataset by one model run, told apart as the trace format does."""

    kind: str  # votes, chains or trees
    dataset: str
    model: str
    source: str | None
    run_id: str | None
    effort: str | None
    method: str | None
    budget: int | None

    @classmethod
    def of(cls, record: Record, kind: str) -> RunKey:
        """The run of a record."""
        return cls(
            kind=kind,
            dataset=record.dataset,
            model=record.model,
            source=record.source,
            run_id=record.run_id,
            effort=None if record.effort is None else str(record.effort),
            method=record.method,
            budget=record.budget,
        )

    def shuffler(self, seed: int, question_id: str) -> random.Random:
        """What shuffles the samples of one of its questions: the same in every command, whatever else is replayed."""
        return random.Random("/".join(str(part) for part in (seed, *self, question_id)))

    def name(self, others: Iterable[RunKey]) -> str | None:
        """What to call it beside others: its most telling name, all of them where one of the others shares that."""
        shown = self.run_id or self.method or self.effort
        rivals = [key for key in others if key != self and key[:4] == self[:4]]
        if all((key.run_id or key.method or key.effort) != shown for key in rivals):
            return shown
        budget = None if self.budget is None else f"budget={self.budget}"
        return " ".join(filter(None, (self.run_id, self.effort, self.method, budget))) or None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result. `model` is None where a mean is over several, `run` is `mean` there."""

    dataset: str
    model: str | None
    source: str | None
    run: str | None
    kind: str
    rule: str
    score: Score
    saved_percent: float
    runs: int = 1
    saved_percent_pooled: float | None = None


class _Run:
    """The programs of one run: their plain curve, and a tally per rule."""

    def __init__(self, kind: str) -> None:
        self.plain = PlainBudgets(by_tokens=kind == "chains")
        self.tallies: dict[str, Tally] = {}

    def tally(self, rule: str) -> Tally:
        return self.tallies.setdefault(rule, Tally())


class Replay:
    """Takes records one by one, and has the rows at the end."""

    def __init__(self, rules: Sequence[str], settings: ReplaySettings, *, all_must_fit: bool = True) -> None:
        """Builds a replay.

        Args:
            rules: type strings, as given; rows name them so.
            settings: see there.
            all_must_fit: whether a rule that fits no record is an error, and not left out.

        Raises:
            InvalidRule: one is unknown, or watches what no trace records.
        """
        self._settings = settings
        self._all_must_fit = all_must_fit
        self._vote_rules: dict[str, RuleAtVotes] = {}
        self._chain_rules: dict[str, ChainRule] = {}
        for rule in rules:
            self._take_rule(rule)
        self._settling = None if settings.chain_rule is None else parse_chain_rule(settings.chain_rule)
        self._votes = VoteReplay(settings.width)
        self._runs: dict[RunKey, _Run] = {}
        self._samples: defaultdict[tuple[RunKey, str], list[tuple[int, RecordedChain]]] = defaultdict(list)
        self._used: set[str] = set()

    def take(self, record: Record) -> None:
        """Replays a record. Raises `TraceUnscorable` where it cannot be scored."""
        match record:
            case SamplesRecord():
                if self._vote_rules:
                    ballots = ballots_of(record)
                    self._vote(RunKey.of(record, "votes"), record.question_id, ballots, is_verifiable=record.verifiable)
            case ProbesRecord():
                self._take_chain(record)
            case StepsRecord():
                self._take_tree(record)

    def rows(self) -> list[Row]:
        """The rows of all runs, each rule in the order given, and the means over the runs of a dataset.

        Raises:
            InvalidRule: a rule fits none of the records.
        """
        for (key, question), chains in self._samples.items():
            self._vote_chains(key, question, chains)
        self._samples.clear()
        unused = [rule for rule in (*self._vote_rules, *self._chain_rules) if rule not in self._used]
        if unused and self._all_must_fit:
            remedy = "votes need samples or trees, chains need probes that were asked as the rule asks"
            raise InvalidRule("rule", f"{unused[0]} fits none of the records", remedy)
        rows: list[Row] = []
        for members in self._datasets():
            rules = dict.fromkeys(rule for _, run in members for rule in run.tallies)
            for rule in rules:
                rows.extend(_rule_rows(rule, [(key, run) for key, run in members if rule in run.tallies]))
        return rows

    def curves(self) -> Iterator[tuple[RunKey, PlainBudgets]]:
        """The plain budgets of each run."""
        for key, run in self._runs.items():
            yield key, run.plain

    def _take_rule(self, rule: str) -> None:
        parsed = parse_rule(rule)
        watches = getattr(parsed, "watches", frozenset({Evidence.VOTES}))
        if token_window(parsed) and not self._all_must_fit:
            return
        if token_window(parsed):
            raise InvalidRule("rule", f"{rule} needs the confidence of every token", "traces do not record it")
        if Evidence.VOTES in watches:
            assert isinstance(parsed, VoteRule)
            self._vote_rules[rule] = RuleAtVotes(parsed)
        if Evidence.CHAIN in watches:
            assert isinstance(parsed, ChainRule)
            self._chain_rules[rule] = parsed

    def _vote(
        self,
        key: RunKey,
        question: str,
        ballots: Sequence[Ballot],
        unsettled: Sequence[Ballot] | None = None,
        *,
        is_verifiable: bool = False,
    ) -> None:
        """Replays a vote; `unsettled` are its ballots as they would be without a rule for chains, if there is one."""
        settings, run = self._settings, self._run(key)
        shuffler = key.shuffler(settings.seed, question)
        for _ in range(max(1, settings.shuffles)):
            started = list(zip(ballots, unsettled or ballots, strict=True))
            if settings.shuffles:
                shuffler.shuffle(started)
            started = started[: settings.cap]
            arrivals = full = self._votes.arrivals([ballot for ballot, _ in started], is_verifiable=is_verifiable)
            if unsettled is not None:
                full = self._votes.arrivals([ballot for _, ballot in started])
            run.plain.add(full.ladder)
            for rule, asked in self._vote_rules.items():
                stopped = asked.replay(arrivals, is_verifiable=is_verifiable).stopped
                run.tally(rule).add(question, Replayed(stopped, full.endings[-1]))
        self._used.update(self._vote_rules)

    def _take_chain(self, record: ProbesRecord) -> None:
        chain = recorded_chain(record)
        if record.rollout is not None and self._vote_rules:
            self._samples[RunKey.of(record, "votes"), record.question_id].append((record.rollout, chain))
        fitting = {rule: parsed for rule, parsed in self._chain_rules.items() if chain.suits(parsed)}
        if not fitting:
            return
        run = self._run(RunKey.of(record, "chains"))
        run.plain.add(chain.ladder())
        for rule, parsed in fitting.items():
            run.tally(rule).add(record.question_id, replay_chain(chain, parsed).replayed)
        self._used.update(fitting)

    def _vote_chains(self, key: RunKey, question: str, chains: list[tuple[int, RecordedChain]]) -> None:
        """Replays a vote of chains, against that of the same chains run to their end."""
        settled, unsettled = [], []
        for _, chain in sorted(chains, key=lambda each: each[0]):
            whole = Ballot(chain.final_cluster, chain.end.is_right, chain.end.tokens)
            unsettled.append(whole)
            if self._settling is None or not chain.suits(self._settling):
                settled.append(whole)
            else:
                stopped = replay_chain(chain, self._settling)
                settled.append(Ballot(stopped.cluster, *stopped.replayed.stopped))
        self._vote(key, question, settled, None if self._settling is None else unsettled)

    def _take_tree(self, record: StepsRecord) -> None:
        if not self._vote_rules:
            return
        tree = RecordedTree(record)
        run = self._run(RunKey.of(record, "trees"))
        run.plain.add(tree.ladder())
        for rule, asked in self._vote_rules.items():
            run.tally(rule).add(record.question_id, tree.replay(asked.rule))
        self._used.update(self._vote_rules)

    def _run(self, key: RunKey) -> _Run:
        if key not in self._runs:
            self._runs[key] = _Run(key.kind)
        return self._runs[key]

    def _datasets(self) -> list[list[tuple[RunKey, _Run]]]:
        datasets: defaultdict[tuple[str, str | None, str], list[tuple[RunKey, _Run]]] = defaultdict(list)
        for key, run in self._runs.items():
            datasets[key.dataset, key.source, key.kind].append((key, run))
        return list(datasets.values())


def replay_files(
    files: Iterable[Path],
    rules: Sequence[str],
    settings: ReplaySettings,
    progressed: Callable[[int], None] = lambda _: None,
    *,
    all_must_fit: bool = True,
) -> Replay:
    """Replays all records of files.

    Args:
        files: of the trace format, or directories of them.
        rules, settings, all_must_fit: as of `Replay`.
        progressed: told how many records have been replayed.

    Raises:
        TraceFormatError: a line is no record, cannot be scored, or says what another line of its file has said.
        InvalidRule: as `Replay`.
    """
    replay = Replay(rules, settings, all_must_fit=all_must_fit)
    seen: dict[tuple[object, ...], Place] = {}
    count = 0
    for count, (place, record) in enumerate(placed_records(files), start=1):
        check_new(seen, place, record)
        try:
            replay.take(record)
        except TraceUnscorable as error:
            raise TraceFormatError(f"{place}: {error}") from error
        progressed(count)
    if not count:
        raise TraceFormatError("the files hold no record; give recorded traces, one JSON object per line")
    return replay


def check_new(seen: dict[tuple[object, ...], Place], place: Place, record: Record) -> None:
    """Refuses a record that an earlier line of its file has identified, for it would count twice.

    Args:
        seen: identity -> where it was seen first; the record is added.
        place: where the record stands.
        record: the record.

    Raises:
        TraceFormatError: the line has the identity of another.
    """
    fields = ("dataset", "model", "source", "run_id", "effort", "method", "budget", "seed", "rollout", "question_id")
    identity = (place.file, type(record), *(getattr(record, field) for field in fields))
    first = seen.setdefault(identity, place)
    if first is not place:
        named = ", ".join(
            f"{field} {value!r:.80}" for field, value in zip(fields, identity[2:], strict=True) if value is not None
        )
        raise TraceFormatError(
            f"{place}: line {first.line} has the same identity ({named}); remove one, or tell them apart"
        )


def _rule_rows(rule: str, runs: Sequence[tuple[RunKey, _Run]]) -> Iterator[Row]:
    scores = []
    others = [key for key, _ in runs]
    for key, run in runs:
        score = run.tallies[rule].score(run.plain)
        scores.append(score)
        yield Row(key.dataset, key.model, key.source, key.name(others), key.kind, rule, score, score.saved_percent)
    models = {key.model for key, _ in runs}
    first = runs[0][0]
    score = mean_score([run.tallies[rule] for _, run in runs], scores)
    yield Row(
        dataset=first.dataset,
        model=first.model if len(models) == 1 else None,
        source=first.source,
        run=MEAN,
        kind=first.kind,
        rule=rule,
        score=score,
        saved_percent=sum(each.saved_percent for each in scores) / len(scores),
        runs=len(runs),
        saved_percent_pooled=_pooled(scores),
    )


def _pooled(scores: Sequence[Score]) -> float:
    """Tokens saved of all runs together, in percent: long runs weigh more."""
    spent = sum(score.tokens * score.questions for score in scores)
    full = sum(score.tokens_full * score.questions for score in scores)
    return 100 * (1 - spent / full) if full else 0.0

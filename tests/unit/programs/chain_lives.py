"""Chains driven to their end by an engine that thinks from a table: the same position, the same trial answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import (
    Accepted,
    CallCancelled,
    CallFinished,
    Checkpointed,
    Claimed,
    Event,
    Outcome,
    Probed,
)
from dynasor_serve.programs.program import Program, accept, directive, finish, fold, fold_log
from dynasor_serve.programs.query import Branch, Message, ProbeParameters, Query, SamplingParameters

NOW_MS = 1_700_000_000_000
STEP = 20  # tokens
_MOST_ROUNDS = 10_000


def asked(
    algorithm: str = "chain-of-thought",
    *,
    rule: str = "consensus-window:window=2,interval=20",
    chain_rule: str = "",
    max_tokens: int = 400,
    budget: int = 0,
    probe: ProbeParameters | None = None,
) -> Accepted:
    """The first event of a program that thinks in chains."""
    query = Query(
        model="model",
        rule=rule,
        chain_rule=chain_rule,
        messages=(Message("user", "What is it?"),),
        sampling=SamplingParameters(max_tokens=max_tokens),
        answer_type=AnswerType.NUMBER,
        algorithm=algorithm,
        probe=probe or ProbeParameters(),
        max_tokens=budget,
    )
    return Accepted(query, "pool", NOW_MS)


@dataclass(frozen=True, slots=True)
class Thought:
    """What a chain would say. A token is two characters.

    Attributes:
        tokens: its length.
        trials: the answer to a probe at each multiple of `STEP` tokens; the last one goes on.
        answer: its own in the end.
        confidence: of every trial.
    """

    tokens: int = 200
    trials: Sequence[str | None] = ("1",)
    answer: str | None = "1"
    confidence: float | None = 1.0

    def text(self, first: int, last: int) -> str:
        """Between two positions."""
        return "".join(f"{chr(97 + position % 26)} " for position in range(first, last))

    def trial(self, position: int) -> str | None:
        """The answer to a probe."""
        return self.trials[min(position // STEP, len(self.trials)) - 1] if position >= STEP else None


@dataclass(slots=True)
class ChainLife:
    """A program and an engine that runs what it wants, `STEP` tokens of each chain in turn.

    Attributes:
        log: every event.
        program: their fold.
        prefilled: plans of the calls that were started, in order.
    """

    first: Accepted
    thoughts: Sequence[Thought]
    log: list[Event] = field(default_factory=list)
    program: Program = field(init=False)
    prefilled: list[CallPlan] = field(default_factory=list)
    epoch: int = 1
    starts: Counter[Branch] = field(default_factory=Counter)  # of each branch's calls, in this epoch
    running: dict[Branch, tuple[CallPlan, int]] = field(default_factory=dict)  # plan, tokens so far

    def __post_init__(self) -> None:
        self.program = accept(self.first)
        self.log.append(self.first)

    def post(self, event: Event) -> None:
        self.log.append(event)
        self.program = fold(self.program, event)

    def crash(self) -> None:
        """The tracker dies; the next one folds the log."""
        self.running.clear()
        self.starts.clear()
        self.epoch += 1
        self.program = fold_log(self.log)
        self.post(Claimed("another", self.epoch))

    def run(self, crashes: Sequence[int] = ()) -> Outcome:
        """Runs to the end; crashes before the rounds named."""
        for number in range(_MOST_ROUNDS):
            if number in crashes:
                self.crash()
            if self.program.stop is not None:
                break
            self.turn()
        final = finish(self.program, NOW_MS)
        self.post(final)
        return final.outcome

    def turn(self) -> None:
        """Every running call says its next tokens."""
        wanted = directive(self.program).wanted
        assert wanted, "a program that wants nothing has stopped"
        for branch in set(self.running) - set(wanted):
            _, tokens = self.running.pop(branch)
            self.post(CallCancelled(branch, self._attempt(branch), tokens % STEP))
        for branch in wanted:
            if branch not in self.running:
                plan = self.program.algorithm.call(branch)
                self.running[branch] = (plan, 0)
                self.starts[branch] += 1
                self.prefilled.append(plan)
            self._say(branch)
            if self.program.stop is not None:
                return

    def _attempt(self, branch: Branch) -> str:
        return f"{self.epoch}.{self.starts[branch]}"

    def _say(self, branch: Branch) -> None:
        plan, said = self.running[branch]
        if plan.watch is None:  # a conclusion
            del self.running[branch]
            written = "7" if plan.opened_box else "wrong"
            self.post(CallFinished(branch, self._attempt(branch), written, f"{written}}}.", tokens=5))
            return
        thought = self.thoughts[branch % len(self.thoughts)]
        start = plan.watch.position
        most = min(thought.tokens, start + (plan.max_tokens or 0))
        here = start + said
        there = min(here + STEP, most)
        if there == most:
            del self.running[branch]
            is_cut = most < thought.tokens
            answer = None if is_cut else thought.answer
            reason = "length" if is_cut else "stop"
            text = thought.text(here, there)
            self.post(CallFinished(branch, self._attempt(branch), answer, text, there - here, finish_reason=reason))
            return
        self.running[branch] = (plan, said + STEP)
        self.post(Checkpointed(branch, self._attempt(branch), there, thought.text(here, there)))
        if plan.watch.probe is not None and self.program.stop is None:
            self.post(
                Probed(branch, self._attempt(branch), there, thought.trial(there), False, thought.confidence, tokens=3)
            )


def with_rule(first: Accepted, rule: str) -> Accepted:
    """The same query under another rule."""
    return replace(first, query=replace(first.query, rule=rule))

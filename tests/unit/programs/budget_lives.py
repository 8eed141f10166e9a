"""Programs under a token budget, driven as `tracker.driver` drives them: calls say a few tokens at a time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import (
    Accepted,
    AnswersCompared,
    BudgetReached,
    CallCancelled,
    CallFinished,
    Event,
    Outcome,
    Rewarded,
)
from dynasor_serve.programs.program import Program, accept, directive, finish, fold, fold_log, with_cancelled
from dynasor_serve.programs.query import Branch
from unit.programs.lives import NOW_MS, Table

_MOST_TURNS = 20_000


@dataclass(slots=True)
class Running:
    """A call that generates.

    Attributes:
        plan: what it was asked.
        end: how it will end.
        said: tokens so far.
    """

    plan: CallPlan
    end: CallFinished
    said: int = 0


@dataclass(slots=True)
class Spending:
    """A program, and engines that say `interval` tokens of a call at a time, in any order.

    Attributes:
        most_at_once: calls that ran side by side.
        lengths: tokens of the calls that ended by themselves, by branch.
    """

    first: Accepted
    table: Table
    chance: random.Random
    interval: int
    program: Program = field(init=False)
    log: list[Event] = field(default_factory=list)
    running: dict[Branch, Running] = field(default_factory=dict)
    attempts: Counter[Branch] = field(default_factory=Counter)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.program = accept(self.first)
        self.log.append(self.first)

    def run(self) -> Outcome:
        """Runs to the end, books what runs then, and finishes.

        Raises:
            AssertionError: the program waits for nothing and has not stopped, or goes on for ever.
        """
        while self.program.stop is None:
            assert len(self.log) < _MOST_TURNS, "it goes on for ever"
            self._act()
            self._turn()
        for call in self.running.values():
            self.program = with_cancelled(self.program, call.said, 0)
        assert self.program.algorithm == fold_log(self.log).algorithm, "folded again, the log means something else"
        return finish(self.program, NOW_MS).outcome

    def _act(self) -> None:
        wanted = directive(self.program).wanted
        for branch in self.running.keys() - set(wanted):
            call = self.running.pop(branch)
            late = min(call.end.tokens, call.said + self.interval)  # said before the connection was closed
            self._post(CallCancelled(branch, call.end.attempt, late))
        for branch in wanted:
            plan = self.program.algorithm.call(branch)
            if branch not in self.running:
                self.attempts[branch] += 1
                end = self.table.event(branch, plan, f"1.{self.attempts[branch]}")
                assert isinstance(end, CallFinished), "calls succeed here"
                self.running[branch] = Running(plan, end)
            assert self.running[branch].plan == plan, f"call {branch} changed while it ran"
        self.most_at_once = max(self.most_at_once, len(self.running))

    def _turn(self) -> None:
        """One thing happens."""
        now = directive(self.program)
        if now.stop is not None:
            return
        choices = [*self.running, *(branch for branch, _ in now.verify), *now.compare]
        assert choices, "it waits for nothing and has not stopped"
        at = self.chance.randrange(len(choices))
        if at < len(self.running):
            self._say(list(self.running)[at])
        elif at < len(self.running) + len(now.verify):
            self._post(Rewarded(now.verify[at - len(self.running)][0], self.chance.choice(self.table.rewards)))
        else:
            self._post(AnswersCompared(unequal=(now.compare[at - len(self.running) - len(now.verify)],)))

    def _say(self, branch: Branch) -> None:
        call = self.running[branch]
        call.said = min(call.end.tokens, call.said + self.interval)
        generated = self.program.ledger.spent + sum(each.said for each in self.running.values())
        if self.program.budget_now and generated >= self.program.budget_now:
            self._post(BudgetReached(generated))
        is_late = branch not in directive(self.program).wanted and self.chance.random() < 0.5
        if call.said == call.end.tokens and self.program.stop is None and not is_late:
            del self.running[branch]
            self._post(call.end)

    def _post(self, event: Event) -> None:
        self.log.append(event)
        self.program = fold(self.program, event)

"""Programs driven to their end by an engine that answers from a table: the same call, the same answer, in any order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import (
    Accepted,
    AnswersCompared,
    CallFailed,
    CallFinished,
    Claimed,
    Event,
    Outcome,
    ProgramError,
    Rewarded,
)
from dynasor_serve.programs.program import MAX_ATTEMPTS, Program, accept, directive, finish, fold, fold_log
from dynasor_serve.programs.query import (
    Branch,
    Message,
    Query,
    RewardParameters,
    RewardSource,
    SamplingParameters,
)
from dynasor_serve.programs.tree import STEP_END

NOW_MS = 1_700_000_000_000
BROKEN_OFF = ProgramError("ENGINE_BROKE_OFF", "the engine broke the stream off", retryable=True)
_MOST_EVENTS = 20_000


def asked(
    algorithm: str,
    *,
    rule: str = "even",
    answer_type: str = "number",
    source: RewardSource | None = RewardSource.OWN,
    max_tokens: int = 400,
    budget: int = 0,
    stop: tuple[str, ...] = (),
    prompt: str | None = None,
) -> Accepted:
    """The first event of a program."""
    reward = None
    if source is not None:
        verifier = "game24" if source is RewardSource.VERIFIER else ""
        reward = RewardParameters(source, pool="judges" if source is RewardSource.MODEL else "", verifier=verifier)
    query = Query(
        model="model",
        rule=rule,
        messages=() if prompt else (Message("user", "What is it?"),),
        prompt=prompt,
        sampling=SamplingParameters(max_tokens=max_tokens, stop=stop),
        answer_type=AnswerType(answer_type),
        algorithm=algorithm,
        reward=reward,
        max_tokens=budget,
    )
    return Accepted(query, "pool", NOW_MS)


@dataclass(frozen=True, slots=True)
class Table:
    """What the engine says to each call of a program.

    Attributes:
        seed: of the table.
        answers: that solutions come to.
        lost: share of the calls that fail for good.
        cut: share of the texts that run out of tokens.
        ends: share of the steps that end the solution.
        rewards: that paths get.
    """

    seed: int = 0
    answers: tuple[str, ...] = ("1", "2", "3")
    lost: float = 0.0
    cut: float = 0.0
    ends: float = 0.3
    rewards: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)

    def event(self, branch: Branch, plan: CallPlan, attempt: str) -> CallFinished | CallFailed:
        """How a call ends."""
        chance = random.Random(f"{self.seed}/{branch}")
        if chance.random() < self.lost:
            return CallFailed(branch, attempt, BROKEN_OFF, tokens=1)
        if plan.judge is not None:
            reward = chance.choice(self.rewards)
            return CallFinished(branch, attempt, None, "", tokens=1, reward=reward)
        is_cut, ends = chance.random() < self.cut, chance.random() < self.ends
        answer = chance.choice(self.answers)
        tokens = chance.randint(1, 60) if plan.max_tokens is None else chance.randint(1, min(60, plan.max_tokens))
        if is_cut:
            return said(branch, "and so", tokens=tokens, finish_reason="length", attempt=attempt)
        if STEP_END in (plan.stop or ()) and not ends:
            return said(branch, f"Step {branch}.\n\n", tokens=tokens, stopped_at=STEP_END, attempt=attempt)
        return said(branch, f"It is \\boxed{{{answer}}}.", answer, tokens=tokens, attempt=attempt)


def said(
    branch: int,
    text: str,
    answer: str | None = None,
    *,
    tokens: int = 10,
    stopped_at: str | None = None,
    finish_reason: str = "stop",
    attempt: str = "1.1",
) -> CallFinished:
    """A call that generated a text."""
    return CallFinished(
        Branch(branch), attempt, answer, text, tokens, finish_reason=finish_reason, stopped_at=stopped_at
    )


def judged(branch: int, reward: float, attempt: str = "1.1") -> CallFinished:
    """A call that judged."""
    return CallFinished(Branch(branch), attempt, None, "", tokens=1, reward=reward)


def given_up(branch: int) -> list[Event]:
    """A call that fails for good."""
    return [CallFailed(Branch(branch), f"0.{attempt}", BROKEN_OFF) for attempt in range(MAX_ATTEMPTS)]


@dataclass(slots=True)
class Life:
    """What became of a program."""

    log: list[Event]
    program: Program
    outcome: Outcome
    asked: Counter[Branch] = field(default_factory=Counter)  # attempts per call
    most_at_once: int = 0


def live(first: Accepted, table: Table, chance: random.Random, check: Callable[[Program], None]) -> Life:
    """Drives a program to its end: its calls end in any order, and its owner dies now and then.

    Args:
        check: called with the program after each event.

    Raises:
        AssertionError: the program waits for nothing and has not stopped, goes on for ever, or asks a running call
            differently.
    """
    log: list[Event] = [first]
    program = accept(first)
    plans: dict[Branch, CallPlan] = {}  # of the running calls
    asked_for: Counter[Branch] = Counter()
    epoch = most_at_once = 0
    while program.stop is None:
        assert len(log) < _MOST_EVENTS, "it goes on for ever"
        now = directive(program)
        if chance.random() < 0.03:  # the owner dies with all its calls
            epoch += 1
            plans = {}
            event: Event = Claimed("tracker", epoch)
        elif program.abandoned and chance.random() < 0.1:  # what was given up arrives after all
            branch = chance.choice(sorted(program.abandoned))
            event = said(branch, "It is \\boxed{9}.\n\n", "9", attempt="late")
        else:
            plans = {branch: plans.get(branch) or program.algorithm.call(branch) for branch in now.wanted}
            for branch, plan in plans.items():
                assert program.algorithm.call(branch) == plan, f"call {branch} changed while it ran"
            most_at_once = max(most_at_once, len(plans))
            event = _next(now.wanted, now.verify, now.compare, plans, table, asked_for, chance, epoch)
        log.append(event)
        program = fold(program, event)
        assert program.algorithm == fold_log(log).algorithm, "folded again, the log means something else"
        check(program)
    return Life(log, program, finish(program, NOW_MS + 1000).outcome, asked_for, most_at_once)


def _next(
    wanted: tuple[Branch, ...],
    verify: tuple[tuple[Branch, str], ...],
    compare: tuple[tuple[str, str], ...],
    plans: dict[Branch, CallPlan],
    table: Table,
    asked_for: Counter[Branch],
    chance: random.Random,
    epoch: int,
) -> Event:
    """One thing that can happen now."""
    choices = [*wanted, *(branch for branch, _ in verify), *compare]
    assert choices, "it waits for nothing and has not stopped"
    at = chance.randrange(len(choices))
    if at < len(wanted):
        branch = wanted[at]
        asked_for[branch] += 1
        return table.event(branch, plans.pop(branch), f"{epoch}.{asked_for[branch]}")
    if at < len(wanted) + len(verify):
        branch, text = verify[at - len(wanted)]
        assert text, "a verifier is shown an empty text"
        return Rewarded(branch, random.Random(f"{table.seed}/v{branch}").choice(table.rewards))
    pair = compare[at - len(wanted) - len(verify)]
    return AnswersCompared(equal=(pair,)) if pair < (pair[1], pair[0]) else AnswersCompared(unequal=(pair,))

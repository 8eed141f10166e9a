"""Speculation: what a program wants beyond its width, what it tells of that, and what it must not change."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.events import CallFailed, CallFinished, Event, Finished, ProgramError
from dynasor_serve.programs.program import Program, directive, finish, fold, fold_log
from dynasor_serve.programs.query import Branch, RewardSource
from dynasor_serve.programs.registry import parse_algorithm
from unit.programs.lives import NOW_MS, asked

GONE = ProgramError("REFUSED", "the engine refuses it")


def said(branch: int, answer: str, tokens: int = 10) -> CallFinished:
    return CallFinished(Branch(branch), "1.1", answer, text=answer, tokens=tokens, prompt_tokens=7)


def voting(*events: Event, samples: int = 8, width: int = 2, idle_width: int = 6, rule: str = "even") -> Program:
    algorithm = f"self-consistency:max_samples={samples},width={width},idle_width={idle_width}"
    return fold_log([asked(algorithm, rule=rule, source=None), *events])


def test_what_is_wanted_beyond_the_width_is_speculative() -> None:
    now = directive(voting())

    assert now.wanted == tuple(range(6))
    assert now.speculative == 4


@pytest.mark.parametrize("idle_width", [0, 1, 2])
def test_an_idle_width_that_is_no_wider_speculates_on_nothing(idle_width: int) -> None:
    now = directive(voting(idle_width=idle_width))

    assert now.wanted == (0, 1)
    assert now.speculative == 0


def test_the_cap_bounds_speculation_and_the_last_samples_are_needed() -> None:
    first, last = (voting(*(said(branch, "1") for branch in range(done))) for done in (4, 7))

    assert (directive(first).wanted, directive(first).speculative) == ((4, 5, 6, 7), 2)
    assert (directive(last).wanted, directive(last).speculative) == ((7,), 0)


def test_the_verdict_leaves_nothing_wanted() -> None:
    settled = voting(*(said(branch, "1") for branch in (5, 0, 3, 2)), rule="beta-posterior:confidence=0.95")

    assert directive(settled).wanted == ()
    assert directive(settled).speculative == 0


def test_a_budget_that_is_nearly_spent_leaves_one_sample_and_no_speculation() -> None:
    algorithm = "self-consistency:max_samples=8,width=2,idle_width=6"
    program = fold_log([asked(algorithm, source=None, budget=400, max_tokens=400)])

    assert len(directive(program).wanted) == 1
    assert directive(program).speculative == 0


def test_judging_goes_before_what_is_said_and_speculation_last() -> None:
    algorithm = "best-of-n:max_samples=8,width=2,idle_width=5"
    finished = fold_log([asked(algorithm), said(3, "It is 1."), said(1, "It is 2.")])
    now = directive(finished)

    assert now.wanted == (8 + 1, 8 + 3, 0, 2, 4)
    assert now.speculative == 3


def test_samples_that_await_the_verifier_fill_the_width_first() -> None:
    algorithm = "best-of-n:max_samples=8,width=2,idle_width=5"
    game = asked(algorithm, source=RewardSource.VERIFIER)
    finished = fold_log([game, said(3, "1 + 2"), said(1, "1 + 3"), said(0, "1 + 4")])
    now = directive(finished)

    assert [branch for branch, _ in now.verify] == [3, 1, 0]
    assert now.wanted == (2, 4)
    assert now.speculative == 2, "three are under way already, more than the width"


@given(
    samples=st.integers(1, 12),
    width=st.integers(1, 12),
    idle_width=st.integers(0, 16),
    answers=st.lists(st.sampled_from("123"), min_size=12, max_size=12),
    fails=st.sets(st.integers(0, 11)),
    order=st.randoms(use_true_random=False),
)
def test_no_more_than_the_cap_runs_and_the_log_gives_the_same_program(
    samples: int, width: int, idle_width: int, answers: list[str], fails: set[int], order: random.Random
) -> None:
    algorithm = str(parse_algorithm(f"self-consistency:max_samples={samples},width={width},idle_width={idle_width}"))
    log: list[Event] = [asked(algorithm, rule="majority-locked", source=None)]
    program = fold_log(log)
    started = set[Branch]()
    while program.stop is None:
        now = directive(program)
        widest = max(width, idle_width)
        assert 0 < len(now.wanted) <= widest
        assert now.speculative == max(0, len(now.wanted) - width)
        assert len(now.wanted) == len(set(now.wanted))
        started.update(now.wanted)
        branch = order.choice(now.wanted)
        failed = branch in fails and program.counted
        event = CallFailed(branch, "1.1", GONE) if failed else said(branch, answers[branch])
        log.append(event)
        program = fold(program, event)
        assert fold_log(log) == program
        assert directive(fold_log(log)) == directive(program)

    assert started <= set(range(samples))
    final: Finished = finish(program, NOW_MS)
    assert final.outcome.samples <= samples


def test_a_program_tells_what_its_next_sample_gains_per_token() -> None:
    unknown, settled, contested = (
        voting(*(said(branch, answer, tokens=50) for branch, answer in enumerate(answers)), samples=16)
        for answers in ("", "1111", "1122")
    )

    assert directive(unknown).gain_per_token == 0
    assert 0 < directive(settled).gain_per_token < directive(contested).gain_per_token < 0.25 / 50


@pytest.mark.parametrize("algorithm", ["best-of-n", "rebase", "mcts", "chain-of-thought", "iterative-cot"])
def test_every_algorithm_has_a_gain(algorithm: str) -> None:
    source = RewardSource.OWN if parse_algorithm(algorithm).needs_reward else None
    rule = "consensus-window:window=3" if algorithm in {"chain-of-thought", "iterative-cot"} else "even"
    program = fold_log([asked(algorithm, rule=rule, source=source)])

    gain = program.algorithm.expected_gain(program.assessment, directive(program).remaining_knob)
    assert 0 < gain <= 1
    assert program.algorithm.expected_gain(program.assessment, 0) == 0


def test_prompt_tokens_are_the_mean_of_the_calls_that_have_ended() -> None:
    assert voting().mean_prompt_tokens == 0
    assert voting(said(0, "1"), said(1, "2")).mean_prompt_tokens == 7

"""Programs as folds: any order of events, duplicates and crashes lead to one end, and the ledger adds up."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.programs.events import (
    Accepted,
    AnswersCompared,
    BudgetReached,
    CallFailed,
    CallFinished,
    CancelRequested,
    Claimed,
    DeadlineReached,
    Event,
    Finished,
    Phase,
    ProgramError,
    StopReason,
)
from dynasor_serve.programs.program import (
    MAX_ATTEMPTS,
    Program,
    accept,
    directive,
    finish,
    fold,
    fold_log,
    with_cancelled,
)
from dynasor_serve.programs.query import Branch, Message, Query
from dynasor_serve.programs.registry import parse_algorithm
from dynasor_serve.programs.self_consistency import SelfConsistencyParameters

NOW_MS = 1_700_000_000_000
FLAKY = ProgramError("ENGINE_BROKE_OFF", "the engine broke the stream off", retryable=True)
REFUSED = ProgramError("PROMPT_TOO_LONG", "the prompt is too long")


def accepted(
    *, samples: int = 8, width: int = 3, rule: str = "even", max_tokens: int = 0, answer_type: str = "number"
) -> Accepted:
    query = Query(
        model="model",
        rule=rule,
        messages=(Message("user", "What is it?"),),
        answer_type=AnswerType(answer_type),
        algorithm=str(SelfConsistencyParameters(samples, width)),
        max_tokens=max_tokens,
    )
    return Accepted(query, "pool", NOW_MS)


def parameters_of(first: Accepted) -> SelfConsistencyParameters:
    parameters = parse_algorithm(first.query.algorithm)
    assert isinstance(parameters, SelfConsistencyParameters)
    return parameters


def finished(branch: int, answer: str | None = "1", tokens: int = 10, attempt: str = "1.1") -> CallFinished:
    text = f"\\boxed{{{answer}}}" if answer else "no idea"
    return CallFinished(Branch(branch), attempt, answer, text, tokens, prompt_tokens=5, cached_prompt_tokens=2)


def failed(branch: int, attempt: str, error: ProgramError = FLAKY, tokens: int = 3) -> CallFailed:
    return CallFailed(Branch(branch), attempt, error, tokens, prompt_tokens=5)


def events_of_calls(samples: int) -> st.SearchStrategy[list[CallFinished | CallFailed]]:
    """What the calls of some branches came to, each call with an attempt of its own."""
    answers = st.sampled_from(["1", "2", "3", None])
    tokens = st.integers(0, 400)
    branch = st.integers(0, samples - 1)
    ends = st.one_of(
        st.builds(finished, branch, answers, tokens),
        st.builds(failed, branch, st.just(""), st.sampled_from([FLAKY, FLAKY, FLAKY, REFUSED]), tokens),
    )
    return st.lists(ends, max_size=3 * samples).map(
        lambda calls: [replace(call, attempt=f"1.{number}") for number, call in enumerate(calls)]
    )


def other_events() -> st.SearchStrategy[Event]:
    return st.one_of(
        st.builds(CancelRequested, st.sampled_from(["", "enough"])),
        st.just(DeadlineReached()),
        st.builds(BudgetReached, st.integers(1, 1000)),
        st.builds(Claimed, st.sampled_from(["a", "b"]), st.integers(1, 9), st.integers(0, 50)),
        st.builds(AnswersCompared, equal=pairs(), unequal=pairs()),
    )


def pairs() -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    return st.lists(st.tuples(st.sampled_from("123x"), st.sampled_from("123x")), max_size=3).map(tuple)


rules = st.sampled_from(
    ["even", "majority-locked", "beta-posterior:confidence=0.9", "static-threshold:threshold=0.7,detect=3"]
)
programs = st.builds(
    accepted,
    samples=st.integers(1, 8),
    width=st.integers(1, 10),
    rule=rules,
    max_tokens=st.sampled_from([0, 0, 50, 500]),
    answer_type=st.sampled_from(["number", "text", "math"]),
)


@dataclass(slots=True)
class Life:
    """A program with whatever happens to it."""

    first: Accepted
    events: list[Event]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    first = draw(programs)
    events: list[Event] = list(draw(events_of_calls(parameters_of(first).max_samples)))
    for event in draw(st.lists(other_events(), max_size=4)):
        events.insert(draw(st.integers(0, len(events))), event)
    repeated = draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    for event in repeated:
        events.insert(draw(st.integers(0, len(events))), event)
    return Life(first, events)


def ended(program: Program) -> Program:
    """The program with its final event, as its owner would end it."""
    assert program.stop is not None
    return fold(program, finish(program, NOW_MS + 1000))


# --- the end


@given(lives())
def test_a_stop_is_for_ever_and_so_is_the_end(life: Life) -> None:
    program = accept(life.first)
    stop, outcome = None, None
    for event in life.events:
        program = fold(program, event)
        if stop is not None:
            assert program.stop == stop, "a later event changed why the program stopped"
        stop = program.stop
    if stop is None:
        return

    program = ended(program)
    outcome = program.outcome
    for event in (*life.events, finish(ended(program), NOW_MS + 2000)):
        program = fold(program, event)
        assert program.outcome == outcome, "an event after the end changed it"
    assert directive(program).wanted == ()


@given(lives(), st.data())
def test_a_crash_between_append_and_act_changes_nothing(life: Life, data: st.DataObject) -> None:
    """The log holds a prefix; the next owner folds it, and whatever was under way is delivered (again)."""
    crash = data.draw(st.integers(0, len(life.events)), label="events appended before the crash")
    again = data.draw(st.integers(0, crash), label="first event that is delivered again")
    repeated = [event for event in life.events[again:crash] if isinstance(event, CallFinished | CallFailed)]

    unbroken = fold_log([life.first, *life.events])
    resumed = fold_log([life.first, *life.events[:crash]])
    for event in (*repeated, *life.events[crash:]):
        resumed = fold(resumed, event)

    assert resumed == unbroken


@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.integers(1, 400)), min_size=1, max_size=8),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_any_order_of_arrivals_leads_to_the_same_votes_and_ledger(
    samples: list[tuple[str | None, int]], width: int, chance: random.Random
) -> None:
    first = accepted(samples=len(samples), width=width)
    calls: list[Event] = [finished(branch, answer, tokens) for branch, (answer, tokens) in enumerate(samples)]
    shuffled = [*calls, *chance.choices(calls, k=3)]
    chance.shuffle(shuffled)

    outcomes = [ended(fold_log([first, *events])).outcome for events in (calls, shuffled)]

    ordered, disordered = outcomes
    assert ordered is not None
    assert disordered is not None
    assert Counter(dict(ordered.votes)) == Counter(dict(disordered.votes))
    assert ordered.ledger == disordered.ledger
    assert ordered.certaindex == disordered.certaindex
    assert (ordered.phase, ordered.stop_reason, ordered.samples) == (
        disordered.phase,
        disordered.stop_reason,
        disordered.samples,
    )
    most = max((count for answer, count in ordered.votes if answer is not None), default=0)
    for outcome in (ordered, disordered):
        assert (outcome.answer, most) in ordered.votes or (outcome.answer is None and most == 0)


@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.integers(1, 400)), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(0, 2**32),
)
def test_owners_that_crash_anywhere_reach_the_same_end(
    samples: list[tuple[str | None, int]], width: int, seed: int
) -> None:
    first = accepted(samples=len(samples), width=width)
    undisturbed = ended(fold_log([first, *(finished(branch, *sample) for branch, sample in enumerate(samples))]))

    log = lived(first, samples, random.Random(seed))

    assert [type(event) for event in log].count(Finished) == 1
    outcome, expected = fold_log(log).outcome, undisturbed.outcome
    assert outcome is not None
    assert expected is not None
    assert Counter(dict(outcome.votes)) == Counter(dict(expected.votes))
    assert (outcome.phase, outcome.samples, outcome.certaindex) == (
        expected.phase,
        expected.samples,
        expected.certaindex,
    )
    assert outcome.ledger.spent - outcome.ledger.lost == expected.ledger.spent


def lived(first: Accepted, samples: list[tuple[str | None, int]], chance: random.Random) -> list[Event]:
    """The log of a program whose owners act on its directives and crash around every append, now and then."""
    log: list[Event] = [first]
    for epoch in count(1):
        log.append(Claimed("tracker", epoch, tokens_lost=chance.randrange(50)))
        program, running, starts = fold_log(log), dict[Branch, str](), Counter[Branch]()
        while chance.random() > 0.1:
            now = directive(program)
            if now.stop is not None:
                return [*log, finish(program, NOW_MS)]
            for branch in set(now.wanted) - running.keys():
                starts[branch] += 1
                running[branch] = f"{epoch}.{starts[branch]}"
            branch = chance.choice(sorted(running))
            attempt = running.pop(branch)
            fails = chance.random() < 0.2 and program.failures.get(branch, 0) < MAX_ATTEMPTS - 1
            event = failed(branch, attempt) if fails else finished(branch, *samples[branch], attempt)
            if chance.random() < 0.1:  # the owner dies with the evidence in its hands
                break
            log.append(event)
            if chance.random() < 0.1:  # it dies before it acts on the record
                break
            program = fold(program, event)
    raise AssertionError("unreachable")


@given(
    st.permutations([("a", "b"), ("b", "c"), ("c", "a")]),
    st.lists(st.sampled_from([("a", "b"), ("b", "c"), ("x", "y")]), max_size=3),
)
def test_comparisons_in_any_order_repeated_or_late_lead_to_the_same_clusters(
    order: list[tuple[str, str]], repeated: list[tuple[str, str]]
) -> None:
    first = accepted(samples=3, answer_type="math")
    answers = {"a": "x+1", "b": "1+x", "c": "x+2-1"}
    program = fold_log([first, *(finished(branch, answer) for branch, answer in enumerate(answers.values()))])
    keys = dict(zip("abc", _keys_asked(program), strict=True))

    for left, right in [*order, *repeated]:
        if left in keys:
            program = fold(program, AnswersCompared(equal=((keys[left], keys[right]),)))
            # Too late to change anything: what is decided stays decided.
            program = fold(program, AnswersCompared(unequal=((keys[left], keys[right]),)))

    outcome = ended(program).outcome
    assert outcome is not None
    assert outcome.votes == (("x+1", 3),)


def _keys_asked(program: Program) -> list[str]:
    asked = directive(program).compare
    assert len(asked) == 3, asked
    return list(dict.fromkeys(key for pair in asked for key in pair))


# --- what should be running


@given(lives())
def test_the_directive_wants_no_branch_that_is_done_and_no_more_than_the_width(life: Life) -> None:
    program = accept(life.first)
    parameters = parameters_of(life.first)
    for event in life.events:
        program = fold(program, event)
        now = directive(program)

        assert len(now.wanted) <= parameters.width
        assert len(set(now.wanted)) == len(now.wanted)
        assert not set(now.wanted) & (program.counted | program.abandoned)
        assert all(0 <= branch < parameters.max_samples for branch in now.wanted)
        assert 0 <= now.remaining_knob <= parameters.max_samples
        assert now.stop == program.stop
        if now.stop is None:
            waiting = parameters.max_samples - len(program.counted) - len(program.abandoned)
            is_hastened = program.algorithm.reserve.spender is not None
            assert len(now.wanted) == (1 if is_hastened else min(parameters.width, waiting))
            assert now.wanted or now.compare, "a program that wants nothing, waits for nothing and has not stopped"
        else:
            assert not now.wanted
            assert not now.compare


@given(lives())
def test_a_branch_counts_once_and_failures_abandon_it_in_bounds(life: Life) -> None:
    program = fold_log([life.first, *life.events])

    assert program.assessment.samples == len(program.counted)
    assert not program.counted & program.abandoned
    assert program.failures.keys() <= set(range(parameters_of(life.first).max_samples))
    if program.stop is None:
        exhausted = {branch for branch, number in program.failures.items() if number >= MAX_ATTEMPTS}
        assert exhausted <= program.abandoned | program.counted


def test_evidence_that_comes_after_all_counts() -> None:
    attempts: list[Event] = [failed(0, f"1.{attempt}") for attempt in range(1, MAX_ATTEMPTS + 1)]
    late: list[Event] = [accepted(), *attempts, finished(0, "4", attempt="1.9")]
    early: list[Event] = [accepted(), finished(0, "4", attempt="1.9"), *attempts]

    for program in map(fold_log, (late, early)):
        assert program.counted == {0}
        assert program.abandoned == frozenset()
        assert directive(program).remaining_knob == 7


def test_a_branch_is_abandoned_after_its_last_attempt_and_shrinks_the_cap() -> None:
    program = accept(accepted(samples=2, width=2))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert Branch(0) in directive(program).wanted
        program = fold(program, failed(0, f"1.{attempt}"))
    assert directive(program).wanted == (Branch(1),)

    program = fold(program, finished(1, "7"))

    assert program.stop is not None
    assert program.stop.reason is StopReason.CAP
    outcome = ended(program).outcome
    assert outcome is not None
    assert outcome.phase is Phase.SUCCEEDED
    assert outcome.answer == "7"
    assert outcome.ledger.saved_estimate == -outcome.ledger.lost


# --- the ledger


@given(lives(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), max_size=3))
def test_the_ledger_adds_up(life: Life, cancelled: list[tuple[int, int]]) -> None:
    program = accept(life.first)
    for event in life.events:
        before, program = program.ledger, fold(program, event)
        after = program.ledger
        assert after.spent >= before.spent, "tokens were taken back"
        assert min(after.spent, after.cancelled, after.lost, after.prompt, after.cached_prompt) >= 0
        assert after.spent == program.finished_tokens + after.cancelled + after.lost
    if program.stop is None:
        return
    for tokens, prompt_tokens in cancelled:
        program = with_cancelled(program, tokens, prompt_tokens)

    outcome = finish(program, NOW_MS + 5000).outcome

    ledger = outcome.ledger
    assert ledger.spent == program.finished_tokens + ledger.cancelled + ledger.lost
    if outcome.samples:
        cap = parameters_of(life.first).max_samples - len(program.abandoned)
        at_the_cap = round(cap * program.finished_tokens / outcome.samples)
        assert ledger.saved_estimate == at_the_cap - ledger.spent
    else:
        assert ledger.saved_estimate is None
    assert outcome.latency_seconds == 5.0
    assert sum(count for _, count in outcome.votes) == outcome.samples


@given(lives())
def test_every_end_is_one_of_the_phases_with_what_belongs_to_it(life: Life) -> None:
    program = fold_log([life.first, *life.events])
    if program.stop is None:
        return

    outcome = finish(program, NOW_MS).outcome

    assert outcome.phase.is_final
    assert (outcome.error is not None) == (outcome.phase is Phase.FAILED)
    assert (outcome.stop_reason is StopReason.FAILED) == (outcome.phase is Phase.FAILED)
    assert outcome.stop_detail
    assert 0 <= outcome.certaindex <= 1
    if outcome.phase is Phase.SUCCEEDED:
        assert outcome.answer is not None
        assert outcome.text
    if outcome.error is not None:
        assert outcome.error.reason
        assert outcome.error.message


def test_a_refusal_of_the_query_itself_ends_it_at_once() -> None:
    program = fold(accept(accepted()), failed(0, "1.1", REFUSED))

    outcome = ended(program).outcome

    assert outcome is not None
    assert outcome.phase is Phase.FAILED
    assert outcome.error == REFUSED


def test_a_refusal_after_evidence_costs_its_branch_alone() -> None:
    program = fold_log([accepted(), finished(0), failed(1, "1.1", REFUSED)])

    assert program.stop is None
    assert program.abandoned == {1}


def test_the_budget_counts_what_was_lost() -> None:
    program = fold_log([accepted(max_tokens=25), failed(0, "1.1", tokens=20), finished(0, tokens=10, attempt="1.2")])

    assert program.stop is not None
    assert program.stop.reason is StopReason.STOP_BUDGET


def test_samples_without_an_answer_fail_and_say_what_would_help() -> None:
    program = fold_log([accepted(samples=2), finished(0, None), finished(1, None)])

    outcome = ended(program).outcome

    assert outcome is not None
    assert outcome.phase is Phase.FAILED
    assert outcome.error is not None
    assert outcome.error.reason == "NO_ANSWER"
    assert "number" in outcome.error.message


@pytest.mark.parametrize("events", [[], [finished(0)], [DeadlineReached(), accepted()]])
def test_a_log_begins_with_accepted(events: list[Event]) -> None:
    with pytest.raises(ValueError, match="begins with Accepted"):
        fold_log(events)

"""What no ordering may take away: a trickle for each class, a bound on being passed over, and that nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.demand import CallEnd, CallId, Want
from dynasor_serve.scheduling.fairness import LEAST_TRICKLE_GRANTS, Fairness
from dynasor_serve.scheduling.orderings.registry import ordering_names, parse_ordering
from unit.scheduling.pools import LONG, NO_PROMISES, order_of, pool_with, wanting

PROGRAMS = 9  # of class number % 3 and tenant number % 2
TIGHT = Fairness(longest_wait_seconds=LONG, longest_wait_shares=2.0, trickle_grants=LEAST_TRICKLE_GRANTS)


@dataclass(frozen=True, slots=True)
class News:
    """A program wants more calls, and its forecasts change."""

    number: int
    calls: int
    knob: int
    mean_tokens: float
    spent: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Step:
    """One grant, and what waited just before it."""

    call: CallId
    waiting: dict[str, tuple[CallId, ...]]  # program -> its waiting calls, in the order in which they were wanted

    @property
    def ranks(self) -> set[int]:
        return {rank_of(program) for program in self.waiting}


NEWS = st.builds(
    News,
    number=st.integers(0, PROGRAMS - 1),
    calls=st.integers(0, 5),
    knob=st.integers(0, 20),
    mean_tokens=st.sampled_from([0.0, 10.0, 300.0]),
    spent=st.sampled_from([0, 50, 5000]),
    deadline_ms=st.sampled_from([0, 10_000, 90_000]),
)
# What is heard before each grant; after the last, one call is granted after the other until none waits.
HISTORIES = st.lists(st.lists(NEWS, max_size=3), min_size=1, max_size=40)


def rank_of(program: str) -> int:
    return int(program) % 3


def play(ordering: str, fairness: Fairness, history: Sequence[Sequence[News]]) -> tuple[list[Step], Counter[CallId]]:
    """Grants one call at a time; returns the grants and how often each call was wanted for the first time."""
    pool = pool_with(1, ordering=ordering, fairness=fairness)
    waiting: dict[str, tuple[CallId, ...]] = {}
    wanted, steps = Counter[str](), list[Step]()

    def hear(news: News) -> None:
        program = str(news.number)
        first = wanted[program]
        wanted[program] += news.calls
        new = tuple(CallId(program, branch, "1.1") for branch in range(first, wanted[program]))
        calls = waiting.get(program, ()) + new
        pool.want("t", replace(want_of(news), calls=calls), float(len(steps)))
        if calls:
            waiting[program] = calls

    def grant() -> bool:
        grants = pool.grants(float(len(steps)))
        for each in grants:
            steps.append(Step(each.call, dict(waiting)))
            left = tuple(call for call in waiting[each.call.program] if call != each.call)
            waiting[each.call.program] = left
            if not left:
                del waiting[each.call.program]
            pool.ended(each.call, CallEnd.FINISHED, 7 * (each.call.branch % 5))
        return bool(grants)

    for heard in history:
        for news in heard:
            hear(news)
        grant()
    while grant():
        pass
    assert pool.waiting_calls == pool.running_calls == 0
    return steps, Counter(
        CallId(program, branch, "1.1") for program, count in wanted.items() for branch in range(count)
    )


def want_of(news: News) -> Want:
    return wanting(
        str(news.number),
        knob=news.knob,
        mean_tokens=news.mean_tokens,
        class_rank=news.number % 3,
        tenant=str(news.number % 2),
        accepted_at_ms=news.number,
        deadline_ms=news.deadline_ms,
        tokens_spent=news.spent,
    )


def bound(fairness: Fairness, programs: int) -> float:
    """Grants within which a program is served while at most so many wait, as docs/orderings.md states it."""
    return (fairness.longest_wait_shares + 2) * programs + 7


@pytest.mark.parametrize("ordering", ordering_names())
@pytest.mark.parametrize("fairness", [Fairness(), TIGHT], ids=["default", "tight"])
@given(history=HISTORIES)
def test_nothing_is_lost_and_nothing_is_granted_twice(
    ordering: str, fairness: Fairness, history: list[list[News]]
) -> None:
    steps, wanted = play(ordering, fairness, history)

    assert Counter(step.call for step in steps) == wanted


@pytest.mark.parametrize("ordering", ordering_names())
@given(history=HISTORIES)
def test_each_class_that_waits_gets_its_trickle(ordering: str, history: list[list[News]]) -> None:
    steps, _ = play(ordering, TIGHT, history)

    for rank in range(3):
        passed = 0
        for step in steps:
            served = rank_of(step.call.program) == rank
            passed = 0 if served or rank not in step.ranks else passed + 1
            assert passed < LEAST_TRICKLE_GRANTS, f"class {rank} was passed over too often"


@pytest.mark.parametrize("ordering", ordering_names())
@given(history=HISTORIES)
def test_no_program_is_passed_over_for_longer_than_is_stated(ordering: str, history: list[list[News]]) -> None:
    steps, _ = play(ordering, TIGHT, history)

    for program in map(str, range(PROGRAMS)):
        passed = most_programs = 0
        for step in steps:
            if program not in step.waiting:
                passed = most_programs = 0
                continue
            passed, most_programs = passed + 1, max(most_programs, len(step.waiting))
            assert passed <= bound(TIGHT, most_programs), f"program {program} starves"
            if step.call.program == program:
                passed = most_programs = 0


@pytest.mark.parametrize("ordering", ordering_names())
@given(history=HISTORIES)
def test_every_call_is_granted_within_the_bound_times_its_place_in_its_program(
    ordering: str, history: list[list[News]]
) -> None:
    steps, _ = play(ordering, TIGHT, history)
    granted_at = {step.call: number for number, step in enumerate(steps)}
    most_programs = max((len(step.waiting) for step in steps), default=0)

    seen = set[CallId]()
    for number, step in enumerate(steps):
        for calls in step.waiting.values():
            for place, call in enumerate(calls, start=1):
                if call not in seen:
                    assert granted_at[call] - number < place * bound(TIGHT, most_programs)
                    seen.add(call)


@pytest.mark.parametrize("ordering", ordering_names())
@given(history=HISTORIES)
def test_a_programs_calls_go_in_the_order_in_which_it_wanted_them(ordering: str, history: list[list[News]]) -> None:
    steps, _ = play(ordering, TIGHT, history)

    assert all(step.call == step.waiting[step.call.program][0] for step in steps)


@pytest.mark.parametrize("name", [name for name in ordering_names() if not parse_ordering(name).tenants_share])
@given(news=st.lists(NEWS, max_size=PROGRAMS, unique_by=lambda news: news.number))
def test_where_no_promise_is_due_the_ordering_decides(name: str, news: list[News]) -> None:
    steps, wanted = play(name, NO_PROMISES, [news])
    ordering, first_tokens = parse_ordering(name), 256.0

    def place(call: CallId) -> tuple[int, float, int, int]:
        number = [each.number for each in news].index(int(call.program))
        want = want_of(news[number])
        arrival = sum(1 + each.calls for each in news[:number]) + 1 + call.branch
        key = ordering.key(want, arrival, want.mean_tokens_per_branch or first_tokens, call.branch)
        return want.class_rank, key, number, call.branch

    assert [step.call for step in steps] == sorted(wanted, key=place)


@given(history=HISTORIES, weight=st.sampled_from([0.5, 1.0, 4.0]))
def test_tenants_that_both_wait_stay_within_one_call_of_their_shares(history: list[list[News]], weight: float) -> None:
    """Of start-time fair queuing: served / weight differ by at most the longest call of each, while both wait."""
    fairness = replace(NO_PROMISES, tenant_weights={"1": weight})
    only_one_class = [[replace(news, number=news.number // 3 * 3) for news in heard] for heard in history]
    steps, _ = play("fair-virtual-time", fairness, only_one_class)
    weights, longest = {0: 1.0, 1: weight}, 7 * 4

    served = {0: 0.0, 1: 0.0}
    for step in steps:
        if {int(program) % 2 for program in step.waiting} != {0, 1}:
            served = {0: 0.0, 1: 0.0}
            continue
        tenant = int(step.call.program) % 2
        served[tenant] += 7 * (step.call.branch % 5) / weights[tenant]
        assert abs(served[0] - served[1]) <= sum(longest / each for each in weights.values()) + 1e-6


# --- streams that would starve somebody


@pytest.mark.parametrize("ordering", ordering_names())
def test_a_stream_of_favoured_programs_does_not_starve_another(ordering: str) -> None:
    """Each newcomer is shorter, was served less, ends sooner and was accepted earlier."""
    fairness = Fairness(longest_wait_seconds=LONG)
    pool = pool_with(1, ordering=ordering, fairness=fairness)
    pool.want("t", wanting("poor", 0, knob=99, mean_tokens=900, tokens_spent=9, accepted_at_ms=9**9), 0.0)
    for number in range(1000):
        newcomer = wanting(f"{number}", 0, knob=1, mean_tokens=10, deadline_ms=1, accepted_at_ms=-number)
        pool.want("t", newcomer, 0.0)
        (grant,) = pool.grants(0.0)
        pool.ended(grant.call, CallEnd.FINISHED, 10)
        if grant.call.program == "poor":
            assert number <= bound(fairness, programs=2)
            return
    raise AssertionError("it starved")


@pytest.mark.parametrize("ordering", ordering_names())
def test_classes_get_their_trickle_and_no_more_from_a_more_urgent_one(ordering: str) -> None:
    fairness = replace(NO_PROMISES, trickle_grants=10)
    pool = pool_with(1, ordering=ordering, fairness=fairness)
    for rank, name in enumerate(["interactive", "standard", "batch"]):
        pool.want("t", wanting(name, *range(500), class_rank=rank), 0.0)
    count = Counter[str]()
    for _ in range(181):
        (grant,) = pool.grants(0.0)
        count[grant.call.program] += 1
        pool.ended(grant.call, CallEnd.FINISHED, 100)

    assert count == {"interactive": 141, "standard": 20, "batch": 20}, "due after 8, so every ninth"


def test_a_flood_of_aged_calls_does_not_go_before_a_more_urgent_class() -> None:
    """Only the trickle and one grant in `longest_wait_shares` go to whom it passes over."""
    fairness = Fairness(longest_wait_seconds=60)
    pool = pool_with(1, fairness=fairness)
    for number in range(300):
        pool.want("t", wanting(f"batch {number}", 0, class_rank=2), 0.0)
    pool.want("t", wanting("urgent", *range(500), class_rank=0), 100.0)
    order = []
    for _ in range(300):
        (grant,) = pool.grants(1000.0)
        order.append(grant.call.program)
        pool.ended(grant.call, CallEnd.FINISHED, 100)

    others = 1 / (fairness.trickle_grants - 1) + 1 / fairness.longest_wait_shares
    assert order.count("urgent") >= 300 * (1 - others) - 1


@pytest.mark.parametrize("ordering", ordering_names())
def test_a_large_program_that_every_ordering_favours_does_not_block_small_ones(ordering: str) -> None:
    fairness = Fairness(longest_wait_seconds=LONG)
    pool = pool_with(1, ordering=ordering, fairness=fairness)
    pool.want("t", wanting("large", *range(1000), knob=0, mean_tokens=1, deadline_ms=1), 0.0)
    small = [f"small {number}" for number in range(5)]
    for name in small:
        pool.want("t", wanting(name, 0, knob=99, mean_tokens=900, tokens_spent=9, accepted_at_ms=9**9), 0.0)

    order = [call.partition("/")[0] for call in order_of(pool)]

    assert max(order.index(name) for name in small) < bound(fairness, programs=6)


def test_a_program_that_wants_other_calls_instead_has_not_stopped_to_wait() -> None:
    fairness = Fairness(longest_wait_seconds=LONG, longest_wait_shares=4)
    pool = pool_with(1, ordering="gang-shortest", fairness=fairness)
    pool.want("t", wanting("favoured", *range(100), knob=1), 0.0)
    order = []
    for number in range(int(bound(fairness, programs=2))):
        pool.want("t", wanting("fickle", 0, knob=99, attempt=f"1.{number}"), 0.0)
        (grant,) = pool.grants(0.0)
        order.append(grant.call.program)
        pool.ended(grant.call, CallEnd.FINISHED, 100)

    assert "fickle" in order

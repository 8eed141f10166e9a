"""Programs on the real pool in virtual time: when they end, what they cost, and who gets the places that they free."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dynasor_serve.programs.program import Program
from dynasor_serve.programs.query import Branch, Query, QueryId
from dynasor_serve.scheduling.pool import Pool
from dynasor_serve.simulation.recorded_programs import pool_of
from dynasor_serve.simulation.virtual_pool import Change, Reply, VirtualPool

SECONDS_PER_TOKEN = 0.5


def virtual_pool(places: int, ordering: str = "gang-fcfs") -> VirtualPool:
    return VirtualPool(pool_of(ordering, places, workers=2), seconds_per_token=SECONDS_PER_TOKEN)


def voting(
    samples: int, *, width: int = 4, idle_width: int = 0, rule: str = "even", deadline_seconds: float = 1e6
) -> Query:
    algorithm = f"self-consistency:max_samples={samples},width={width},idle_width={idle_width}"
    return Query("model", rule, prompt="?", algorithm=algorithm, deadline_seconds=deadline_seconds)


def always(answer: str | None, tokens: int) -> Callable[[Branch], Reply]:
    return lambda branch: Reply(answer, tokens)


def finals(virtual: VirtualPool) -> dict[str, Change]:
    """How each program ended."""
    return {change.query_id: change for change in virtual.run() if change.program.outcome is not None}


def ledger_of(program: Program) -> tuple[int, int]:
    """Completion tokens (spent, cancelled)."""
    assert program.outcome is not None
    return program.outcome.ledger.spent, program.outcome.ledger.cancelled


def test_samples_side_by_side_take_as_long_as_the_longest() -> None:
    virtual = virtual_pool(4)
    virtual.submit(10.0, QueryId("q"), voting(4), lambda branch: Reply("1", 10 * (branch + 1)))

    final = finals(virtual)["q"]

    assert final.seconds == 10.0 + 40 * SECONDS_PER_TOKEN
    assert final.tokens == pytest.approx(10 + 20 + 30 + 40)
    assert ledger_of(final.program) == (100, 0)
    assert final.program.outcome is not None
    assert final.program.outcome.latency_seconds == 20.0


def test_a_pool_with_one_place_plays_one_call_after_the_other() -> None:
    virtual = virtual_pool(1)
    virtual.submit(0.0, QueryId("a"), voting(2), always("1", 10))
    virtual.submit(0.0, QueryId("b"), voting(2), always("1", 10))

    assert {query: final.seconds for query, final in finals(virtual).items()} == {"a": 10.0, "b": 20.0}


def test_the_places_of_a_certain_program_go_to_others_in_the_same_instant() -> None:
    """Three equal answers settle `a` while its fourth sample, a long one, runs: `b` gets all four places then."""
    rule = "unanimous-window:window=3"
    started: list[tuple[float, str, int]] = []
    virtual = virtual_pool(4)

    def saying(query: str, tokens: Callable[[int], int]) -> Callable[[Branch], Reply]:
        def reply(branch: Branch) -> Reply:
            started.append((virtual.now, query, branch))
            return Reply("1", tokens(branch))

        return reply

    virtual.submit(0.0, QueryId("a"), voting(4, rule=rule), saying("a", lambda at: 1000 if at == 3 else 8))
    virtual.submit(1.0, QueryId("b"), voting(4), saying("b", lambda at: 6))
    final = finals(virtual)

    assert final["a"].seconds == 8 * SECONDS_PER_TOKEN
    assert ledger_of(final["a"].program) == (3 * 8 + 8, 8), "what its last sample had said is charged"
    assert [each for each in started if each[1] == "b"] == [(4.0, "b", branch) for branch in range(4)]
    assert final["b"].seconds == 4.0 + 6 * SECONDS_PER_TOKEN


def test_a_deadline_ends_a_program_with_its_best_answer_so_far() -> None:
    virtual = virtual_pool(1)
    query = voting(5, deadline_seconds=11.0)
    virtual.submit(2.0, QueryId("q"), query, lambda branch: Reply("17" if branch else "4", 6))

    final = finals(virtual)["q"]

    assert final.seconds == 13.0
    outcome = final.program.outcome
    assert outcome is not None
    assert (outcome.stop_reason, outcome.answer, outcome.samples) == ("stop-deadline", "17", 3)
    assert ledger_of(final.program) == (3 * 6 + 4, 4)
    assert virtual.in_flight == 0


@pytest.mark.parametrize(("others", "seconds"), [(0, 10.0), (2, 20.0)], ids=["idle", "short"])
def test_a_program_speculates_where_places_are_left_over_and_only_there(others: int, seconds: float) -> None:
    """Two programs of width 2 on eight places, of which others take none or two each."""
    virtual = virtual_pool(8)
    for number in range(others):
        virtual.submit(0.0, QueryId(f"other-{number}"), voting(2, width=2), always("1", 1000))
    virtual.submit(0.0, QueryId("narrow"), voting(8, width=2), always("1", 10))
    virtual.submit(0.0, QueryId("wide"), voting(8, width=2, idle_width=8), always("1", 10))

    final = finals(virtual)

    assert final["narrow"].seconds == 4 * 10 * SECONDS_PER_TOKEN
    assert final["wide"].seconds == seconds


def test_all_tokens_are_counted_those_of_cancelled_calls_included() -> None:
    virtual = virtual_pool(4, ordering="expected-gain")
    for number in range(6):
        query = voting(8, rule="unanimous-window:window=2")
        replies = [Reply("1" if (number + branch) % 3 else "2", 5 + 3 * branch) for branch in range(8)]
        virtual.submit(float(number), QueryId(str(number)), query, replies.__getitem__)

    final = finals(virtual)

    assert len(final) == 6
    assert any(ledger_of(each.program)[1] for each in final.values())
    spent = sum(ledger_of(each.program)[0] for each in final.values())
    assert virtual.generated == pytest.approx(spent, abs=4 * 6)  # a cancelled call's share of a token is not booked


def test_the_pool_is_left_empty() -> None:
    pool: Pool = pool_of("least-attained-service", 3, workers=2)
    virtual = VirtualPool(pool, seconds_per_token=SECONDS_PER_TOKEN)
    for number in range(5):
        virtual.submit(0.0, QueryId(str(number)), voting(6, rule="unanimous-window:window=3"), always("1", number + 1))

    assert len(finals(virtual)) == 5
    assert (pool.waiting_calls, pool.running_calls, virtual.in_flight) == (0, 0, 0)

"""`expected-gain`: who goes next where places are short, on the real pool."""

from __future__ import annotations

import math

import pytest

from dynasor_serve.scheduling.demand import Want
from dynasor_serve.scheduling.orderings.expected_gain import ExpectedGain
from unit.scheduling.pools import order_of, pool_with, wanting


def gaining(program: str, gain_per_token: float, *branches: int) -> Want:
    return wanting(program, *branches, gain_per_token=gain_per_token, samples=3)


def order(*wants: Want) -> list[str]:
    pool = pool_with(1, ordering="expected-gain")
    for want in wants:
        pool.want("t", want, 0.0)
    return order_of(pool)


def test_the_program_that_gains_most_per_token_goes_first() -> None:
    assert order(gaining("little", 1e-6, 0), gaining("much", 1e-4, 0), gaining("more", 1e-5, 0)) == [
        "much/0",
        "more/0",
        "little/0",
    ]


def test_programs_of_which_nothing_is_known_go_before_and_each_gets_a_call_before_one_gets_two() -> None:
    assert order(gaining("known", 1.0, 0), wanting("a", 0, 1), wanting("b", 0, 1)) == [
        "a/0",
        "b/0",
        "a/1",
        "b/1",
        "known/0",
    ]


def test_the_calls_of_one_wave_gain_less_and_less() -> None:
    assert order(gaining("most", 0.3, 0, 1, 2, 3), gaining("half", 0.14, 0, 1)) == [
        "most/0",
        "most/1",
        "half/0",
        "most/2",
        "most/3",
        "half/1",
    ]


def test_programs_without_any_gain_go_last_in_the_order_of_their_arrival() -> None:
    assert order(gaining("done", 0.0, 0), gaining("settled", 0.0, 0), gaining("open", 1e-9, 0)) == [
        "open/0",
        "done/0",
        "settled/0",
    ]


@pytest.mark.parametrize("absurd", [math.nan, -1.0, -math.inf])
def test_a_gain_that_cannot_be_is_none(absurd: float) -> None:
    assert order(gaining("liar", absurd, 0), gaining("open", 1e-9, 0)) == ["open/0", "liar/0"]


def test_no_gain_goes_before_a_program_of_which_nothing_is_known() -> None:
    ordering = ExpectedGain()
    unknown = ordering.key(wanting("new", 0), 0, 256.0, 1023)

    assert unknown < ordering.key(gaining("boaster", math.inf, 0), 0, 256.0, 0)
    assert unknown < ordering.key(gaining("boaster", 1e300, 0), 0, 256.0, 0)

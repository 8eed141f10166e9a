"""The arithmetic of the replay's clock."""

from __future__ import annotations

import pytest

from dynasor_serve.engines.replay.timing import Timing


def test_the_first_token_comes_after_the_fixed_time_and_the_uncached_prompt() -> None:
    timing = Timing(first_token_seconds=0.1, prefill_seconds_per_token=0.01, speed=2)

    assert timing.first_token_after(uncached_prompt_tokens=10) == pytest.approx(0.1)
    assert timing.first_token_after(uncached_prompt_tokens=0) == pytest.approx(0.05)


def test_a_batch_slows_every_token_by_its_size() -> None:
    timing = Timing(seconds_per_output_token=0.01, slowdown_per_running_call=0.5)

    assert timing.decode_after(10, running=1) == pytest.approx(0.1)
    assert timing.decode_after(10, running=3) == pytest.approx(0.2)
    assert timing.decoded_within(0.205, running=3) == 10


def test_without_time_per_token_nothing_takes_time_and_nothing_is_decoded_meanwhile() -> None:
    assert Timing().decode_after(1000, running=64) == 0
    assert Timing().decoded_within(1.0, running=1) == 0


@pytest.mark.parametrize("wrong", [{"speed": 0}, {"first_token_seconds": -1}, {"slowdown_per_running_call": -0.1}])
def test_a_clock_that_stands_still_or_runs_backwards_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Timing(**wrong)

"""Hostile answers and the equality pool's real workers: whatever they are asked, the next honest pair is decided."""

import itertools
import os

import pytest

from dynasor_serve.evaluator.equality_pool import Equality, EqualityPool

from fakes.hostile_answers import hostile_answers

# Algebra takes a thousand times as long as reading, and some of these take all the time that a pair has.
INPUTS = int(os.environ.get("DYNASOR_FUZZ_INPUTS", "2000")) // 40
SEED = 20250602


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * INPUTS)
async def test_workers_live_through_hostile_answers() -> None:
    texts = [text[:2000] for text in hostile_answers(SEED, INPUTS)]
    async with EqualityPool(timeout_seconds=0.5, memory_bytes=1 << 29) as pool:
        for start in range(0, INPUTS, 50):
            batch = texts[start : start + 50]
            decisions = await pool.decide([(text, "x+1") for text in batch])
            assert Equality.EQUAL not in decisions
            assert Equality.NOT_REACHED not in decisions
            pairs = list(itertools.pairwise(batch))
            assert Equality.NOT_REACHED not in await pool.decide(pairs)
            assert await pool.decide([("(x+1)(y+1)", "xy+x+y+1"), ("x+1", "x+2")]) == [
                Equality.EQUAL,
                Equality.DIFFERENT,
            ]

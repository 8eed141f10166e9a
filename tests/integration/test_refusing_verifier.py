"""A verifier that will not judge, through the whole system: the query fails, and says why."""

from __future__ import annotations

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.programs.verifier_tasks import MOST_READ_BYTES

from fakes.running_stack import RunningStack, asking, final_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_tests_that_only_the_evaluator_reads_fail_the_query_with_its_words(stack: RunningStack) -> None:
    """Whether its machine can run tests or not, it refuses these: the one reason or the other."""
    task = "assert f(\n" + "#" * MOST_READ_BYTES
    reward = pb.Reward(source="verifier", verifier="unit-tests", task=task)
    algorithm = pb.Algorithm(type_string="best-of-n:max_samples=8,width=4")

    events = await stack.run(asking("q00", algorithm=algorithm, reward=reward))

    final = final_of(events)
    error = final.outcome.error
    assert final.phase == pb.QUERY_PHASE_FAILED
    assert (error.reason, error.retryable) == ("VERIFIER_REFUSED", False)
    assert "'(' was never closed" in error.message or "no isolation" in error.message
    assert final.outcome.stop_detail == error.message
    rewarded = [event.rewarded for event in events if event.HasField("rewarded")]
    assert [each.reward for each in rewarded] == [0.0], "one refusal is enough"
    assert rewarded[0].detail.startswith("not verified: ")
    assert await stack.calls_in_engine() == 0

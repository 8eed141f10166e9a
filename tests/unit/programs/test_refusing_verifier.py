"""A verifier that refuses ends the program; one that is silent leaves it a reward of 0."""

from __future__ import annotations

import pytest

from dynasor_serve.programs.events import Event, Phase, ProgramError, Rewarded, StopReason
from dynasor_serve.programs.program import directive, finish, fold, fold_log
from dynasor_serve.programs.query import Branch, RewardSource
from dynasor_serve.state.records import decode
from unit.programs.lives import NOW_MS, asked, said

REFUSED = ProgramError("VERIFIER_REFUSED", "unit-tests is not offered: no isolation")
ALGORITHMS = ["best-of-n:max_samples=3,width=3", "rebase:width=3", "mcts:rollouts=3,expansions=2"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_refusal_ends_the_program_as_failed_and_shows_what_it_had(algorithm: str) -> None:
    running = fold_log([asked(algorithm, source=RewardSource.VERIFIER), said(0, "It is \\boxed{3}.", "3")])
    ((branch, _),) = directive(running).verify

    stopped = fold(running, Rewarded(branch, 0.0, "not verified: no isolation", REFUSED))

    assert directive(stopped).wanted == ()
    outcome = finish(stopped, NOW_MS).outcome
    assert (outcome.phase, outcome.stop_reason, outcome.error) == (Phase.FAILED, StopReason.FAILED, REFUSED)
    assert outcome.stop_detail == REFUSED.message
    assert outcome.answer == "3", "what was found is shown, though nobody has judged it"
    assert outcome.ledger.spent == 10


def test_a_refusal_after_the_end_changes_nothing() -> None:
    algorithm = "best-of-n:max_samples=1"
    judged = Rewarded(Branch(0), 1.0)
    log: list[Event] = [asked(algorithm, source=RewardSource.VERIFIER), said(0, "It is 3.", "3"), judged]
    done = fold_log(log)
    assert done.stop is not None

    assert fold(done, Rewarded(Branch(0), 0.0, "", REFUSED)) is done


def test_a_silent_verifier_leaves_a_reward_of_0() -> None:
    log: list[Event] = [asked("best-of-n:max_samples=1", source=RewardSource.VERIFIER), said(0, "It is 3.", "3")]
    outcome = finish(fold_log([*log, Rewarded(Branch(0), 0.0, "not verified: it does not answer")]), NOW_MS).outcome

    assert (outcome.phase, outcome.answer, outcome.certaindex) == (Phase.SUCCEEDED, "3", 0.0)


def test_a_reward_of_an_earlier_release_is_read() -> None:
    line = b'{"version":2,"time_ms":1,"type":"rewarded","event":{"branch":0,"reward":0.5,"detail":"half"}}'

    assert decode(line).event == Rewarded(Branch(0), 0.5, "half")

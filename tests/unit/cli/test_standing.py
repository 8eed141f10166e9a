"""What a client knows of a query from its events."""

from __future__ import annotations

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.presentation import progress_line
from dynasor_serve.cli.standing import Standing, standing_of


def finished_sample(answer: str | None, *, samples: int, tokens: int = 10, certaindex: float = 0.5) -> pb.QueryEvent:
    sample = pb.SampleFinished(answer=answer, samples=samples, tokens=tokens, certaindex=certaindex)
    return pb.QueryEvent(query_id="q", sequence=samples + 1, sample_finished=sample)


def test_phases_follow_the_events() -> None:
    standing = Standing()
    phases = [standing.phase]
    outcome = pb.Outcome(answer="7", samples=2, ledger=pb.Ledger(tokens_spent=33))
    for event in (
        pb.QueryEvent(query_id="q", accepted=pb.Accepted(pool="p")),
        pb.QueryEvent(query_id="q", claimed=pb.Claimed(tracker="t")),
        pb.QueryEvent(query_id="q", finished=pb.Finished(phase=pb.QUERY_PHASE_SUCCEEDED, outcome=outcome)),
    ):
        standing.apply(event)
        phases.append(standing.phase)
    assert phases == ["unknown", "queued", "running", "succeeded"]
    assert (standing.query_id, standing.tokens, standing.samples) == ("q", 33, 2)


def test_answers_that_canonical_strings_decide_are_one_vote() -> None:
    standing = Standing(answer_type="number")
    for samples, answer in enumerate(("1,000", "1000.0", None, "3"), start=1):
        standing.apply(finished_sample(answer, samples=samples))
    assert standing.votes == [("1,000", 2), ("3", 1), ("", 1)]
    assert (standing.samples, standing.tokens) == (4, 40)


def test_a_judgement_is_no_sample_without_an_answer() -> None:
    standing = Standing(answer_type="number")
    standing.apply(finished_sample("7", samples=0))  # it counts once it is judged
    judgement = pb.SampleFinished(samples=1, certaindex=0.9, reward=0.9)
    standing.apply(pb.QueryEvent(query_id="q", sequence=3, sample_finished=judgement))

    assert standing.votes == []
    assert progress_line(standing) == "certaindex 0.90 · 1 sample, 10 tokens"


def test_the_outcome_has_the_last_word_on_votes_and_tokens() -> None:
    standing = Standing(answer_type="math")
    standing.apply(finished_sample("x+1", samples=1))
    standing.apply(finished_sample("1+x", samples=2))
    assert len(standing.votes) == 2
    outcome = pb.Outcome(
        answer="x+1", samples=2, votes=[pb.Vote(answer="x+1", count=2)], ledger=pb.Ledger(tokens_spent=25)
    )
    finished = pb.Finished(phase=pb.QUERY_PHASE_SUCCEEDED, outcome=outcome)
    standing.apply(pb.QueryEvent(query_id="q", finished=finished))
    assert standing.votes == [("x+1", 2)]
    assert standing.tokens == 25


def test_a_state_without_an_outcome_is_still_running() -> None:
    state = pb.QueryState(query_id="q", phase=pb.QUERY_PHASE_RUNNING, samples=3, certaindex=0.25)
    standing = standing_of(state)
    assert (standing.phase, standing.samples, standing.certaindex, standing.outcome) == ("running", 3, 0.25, None)

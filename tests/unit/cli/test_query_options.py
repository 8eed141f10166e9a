"""From the command line's words to a query message."""

from __future__ import annotations

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.query_options import ClassName, QueryOptions, read_question


def test_what_is_not_given_is_left_to_the_server() -> None:
    query = QueryOptions(question="How many?").message()
    assert query.chat.messages[0].content == "How many?"
    assert query.WhichOneof("input") == "chat"
    sampling, algorithm = query.sampling, query.algorithm.self_consistency
    assert not any(sampling.HasField(name) for name in ("temperature", "top_p", "max_tokens", "seed"))
    assert not any(algorithm.HasField(name) for name in ("max_samples", "width"))
    assert not query.HasField("deadline")
    assert (query.policy.rule, query.model, query.tenant) == ("", "", "")


def test_every_option_arrives_in_the_message() -> None:
    query = QueryOptions(
        question="text",
        is_prompt=True,
        answer_type="number",
        model="m",
        max_samples=8,
        width=2,
        idle_width=6,
        rule="even",
        budget_tokens=100,
        deadline_seconds=1.5,
        temperature=0.5,
        top_p=0.9,
        max_tokens=64,
        stop=("\n",),
        query_class=ClassName.BATCH,
        tenant="t",
        idempotency_key="k",
        labels=("a=b=c", "d="),
    ).message()
    assert query.prompt == "text"
    assert query.deadline.ToMilliseconds() == 1500
    assert query.query_class == pb.QUERY_CLASS_BATCH
    assert dict(query.labels) == {"a": "b=c", "d": ""}
    assert query.sampling == pb.SamplingParameters(temperature=0.5, top_p=0.9, max_tokens=64, stop=["\n"])
    assert query.algorithm.self_consistency == pb.SelfConsistency(max_samples=8, width=2, idle_width=6)
    assert query.budget.max_tokens == 100
    assert (query.policy.rule, query.model, query.tenant) == ("even", "m", "t")
    assert (query.answer_type, query.idempotency_key) == ("number", "k")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (QueryOptions(question="q", algorithm="rebase", width=8), "--width is for self-consistency.*rebase:width=8"),
        (QueryOptions(question="q", algorithm="best-of-n", idle_width=8), "--idle-width is .*best-of-n:idle_width=8"),
        (QueryOptions(question="q", max_samples=2**31), "--max-samples is 2147483648"),
        (QueryOptions(question="q", budget_tokens=-(2**63)), "--budget-tokens"),
        (QueryOptions(question="q", deadline_seconds=float("nan")), "--deadline is nan"),
        (QueryOptions(question="q", deadline_seconds=float("inf")), "--deadline is inf"),
        (QueryOptions(question="q", labels=("novalue",)), "'novalue' is not KEY=VALUE"),
    ],
)
def test_what_no_message_can_hold_is_refused(options: QueryOptions, words: str) -> None:
    with pytest.raises(CommandFailed, match=words) as failure:
        options.message()
    assert failure.value.exit_code is ExitCode.BAD_INPUT


def test_values_that_only_the_server_can_judge_are_sent() -> None:
    query = QueryOptions(question="q", max_samples=0, temperature=-1.0, deadline_seconds=-1.0, rule="nope").message()
    assert query.algorithm.self_consistency.max_samples == 0
    assert query.deadline.ToSeconds() == -1


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(CommandFailed, match="empty"):
        read_question(" \n")

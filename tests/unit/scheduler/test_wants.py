"""A want reaches the pool with all that its tracker says of it."""

from __future__ import annotations

from dataclasses import fields

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.scheduler.conversion import want_from
from dynasor_serve.scheduling.demand import CallId, Want

MESSAGE = pb.ProgramWant(
    query_id="q",
    pool="pool",
    calls=[pb.WantedCall(branch=3, attempt="1.2"), pb.WantedCall(branch=4, attempt="1.1")],
    query_class=2,
    tenant="tenant",
    remaining_knob=7,
    mean_tokens_per_branch=120.5,
    accepted_at_ms=1_000,
    deadline_ms=2_000,
    tokens_spent=241,
    algorithm="self-consistency",
    shares_prefixes=True,
    certaindex=0.5,
    samples=2,
    gain_per_token=0.001,
    speculative=1,
    prompt_tokens=33.0,
)
WANT = Want(
    program="q",
    pool="pool",
    algorithm="self-consistency",
    calls=(CallId("q", 3, "1.2"), CallId("q", 4, "1.1")),
    class_rank=1,
    tenant="tenant",
    remaining_knob=7,
    mean_tokens_per_branch=120.5,
    accepted_at_ms=1_000,
    deadline_ms=2_000,
    tokens_spent=241,
    shares_prefixes=True,
    certaindex=0.5,
    samples=2,
    gain_per_token=0.001,
    speculative=1,
    prompt_tokens=33.0,
)


def test_every_field_of_a_want_comes_from_the_trackers_message() -> None:
    assert want_from(MESSAGE) == WANT


def test_the_message_of_this_test_sets_every_field() -> None:
    assert {field.name for field, _ in MESSAGE.ListFields()} == {each.name for each in pb.ProgramWant.DESCRIPTOR.fields}
    assert all(getattr(WANT, each.name) for each in fields(Want))

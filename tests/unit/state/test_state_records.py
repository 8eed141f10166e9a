"""Records: what is written is what is read, and what cannot be read is said to be so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs import events
from dynasor_serve.programs.events import Event
from dynasor_serve.state.records import VERSION, CorruptRecord, Record, decode, encode

# Redis and JSON carry any text but lone surrogates, which no valid request holds.
st.register_type_strategy(str, st.text(st.characters(codec="utf-8"), max_size=30))
st.register_type_strategy(int, st.integers(-(2**53), 2**63 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))

EVENT_TYPES: list[type[Any]] = [
    events.Accepted,
    events.Claimed,
    events.CallFinished,
    events.CallFailed,
    events.CallCancelled,
    events.Checkpointed,
    events.Probed,
    events.Rewarded,
    events.AnswersCompared,
    events.CancelRequested,
    events.DeadlineReached,
    events.BudgetReached,
    events.Finished,
]
any_event = st.one_of([st.from_type(event_type) for event_type in EVENT_TYPES])


def test_all_kinds_of_events_are_tried() -> None:
    assert set(EVENT_TYPES) == set(Event.__args__)


@given(any_event, st.integers(0, 2**53), st.integers(0, 1024), st.floats(0, 1))
def test_every_event_is_read_as_it_was_written(event: Event, time_ms: int, samples: int, certaindex: float) -> None:
    record = Record(event, time_ms, samples, certaindex)

    line = encode(record)

    assert decode(line) == record
    assert b"\n" not in line, "a line break separates records on the wire"


@given(any_event)
def test_a_newer_release_may_add_fields(event: Event) -> None:
    envelope = json.loads(encode(Record(event, 1)))
    envelope["new"] = {"field": 1}
    envelope["event"]["also_new"] = [1, 2]

    assert decode(json.dumps(envelope).encode()).event == event


def test_a_record_of_a_newer_version_is_refused() -> None:
    envelope = json.loads(encode(Record(events.DeadlineReached(), 1)))
    envelope["version"] = VERSION + 1

    with pytest.raises(CorruptRecord, match=f"version {VERSION + 1}.*up to {VERSION}"):
        decode(json.dumps(envelope).encode())


def test_a_record_of_an_unknown_type_is_refused_with_the_known_ones() -> None:
    envelope = json.loads(encode(Record(events.DeadlineReached(), 1)))
    envelope["type"] = "teleported"

    with pytest.raises(CorruptRecord, match=r"teleported.*deadline-reached"):
        decode(json.dumps(envelope).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"version": 1}',
        b'{"version": 1, "time_ms": 1, "type": "claimed", "event": {}}',
        b'{"version": 1, "time_ms": 1, "type": "claimed", "event": {"tracker": 7, "epoch": 1}}',
        b'{"version": "1", "time_ms": 1, "type": "claimed", "event": {"tracker": "a", "epoch": 1}}',
    ],
)
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode(line)

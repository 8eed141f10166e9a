"""Three clocks that run alike but show different times watch one lease: holder, tracker and standby never overlap."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.state.group_lease import HELD_SHARE, LeaseRecord, WatchedLease

LEASE_SECONDS = 3.0
FIRST = LeaseRecord(epoch=1, renewals=0, lease_seconds=LEASE_SECONDS, address="127.0.0.1:7003")


def test_a_first_look_says_nothing_of_how_long_the_lease_has_lasted() -> None:
    watched = WatchedLease()

    watched.look(FIRST, asked=100.0, answered=100.1)

    assert watched.held_until == -math.inf
    assert watched.ended_from == 100.1 + LEASE_SECONDS


def test_a_renewal_is_as_old_as_the_look_before_it_was_seen() -> None:
    watched = WatchedLease()
    watched.look(FIRST, asked=100.0, answered=100.1)

    watched.look(replace(FIRST, renewals=1), asked=101.0, answered=101.2)

    assert watched.held_until == 100.0 + LEASE_SECONDS
    assert watched.ended_from == 101.2 + LEASE_SECONDS


def test_looks_that_show_nothing_new_change_nothing() -> None:
    watched = WatchedLease()
    watched.look(None, asked=99.0, answered=99.1)
    watched.look(FIRST, asked=100.0, answered=100.1)
    held_until, ended_from = watched.held_until, watched.ended_from

    watched.look(FIRST, asked=102.0, answered=102.1)

    assert (watched.held_until, watched.ended_from) == (held_until, ended_from) == (102.0, 103.1)


def test_a_lease_that_is_gone_is_nobodys() -> None:
    watched = WatchedLease()
    watched.look(None, asked=99.0, answered=99.1)
    watched.look(FIRST, asked=100.0, answered=100.1)

    watched.look(None, asked=101.0, answered=101.1)

    assert watched.record is None
    assert watched.held_until == -math.inf


_PAUSES = st.lists(st.floats(0.01, 2.0), min_size=1, max_size=40)
_DELAYS = st.floats(0.0, 1.0)  # of a message, one way [s]


@given(st.data(), _PAUSES, _PAUSES, _PAUSES)
def test_whoever_takes_over_finds_nobody_active_and_nobody_obedient(
    data: st.DataObject, renewals: list[float], looks_of_tracker: list[float], looks_of_standby: list[float]
) -> None:
    """Everybody's clock shows another time, and every message takes a time of its own; so do all on the way back."""
    offset_of_tracker, offset_of_standby = data.draw(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)))
    now, written, holder_stops = 0.0, [(0.0, FIRST)], LEASE_SECONDS * HELD_SHARE
    for number, pause in enumerate(renewals, start=1):
        now += pause
        if now >= holder_stops:
            break  # it has stopped, and renews no more
        arrives = max(written[-1][0], now + data.draw(_DELAYS))
        written.append((arrives, replace(FIRST, renewals=number)))
        if arrives < holder_stops:
            holder_stops = now + LEASE_SECONDS * HELD_SHARE

    def watch(pauses: list[float], offset: float) -> WatchedLease:
        watched, asked = WatchedLease(), -1.0
        for pause in pauses:
            asked += pause
            served = asked + data.draw(_DELAYS)
            answered = served + data.draw(_DELAYS)
            seen = [record for at, record in written if at <= served]
            watched.look(seen[-1] if seen else None, asked + offset, answered + offset)
            asked = answered
        return watched

    tracker, standby = watch(looks_of_tracker, offset_of_tracker), watch(looks_of_standby, offset_of_standby)

    if standby.record == written[-1][1]:  # else Redis refuses it
        takes_over = standby.ended_from - offset_of_standby
        assert takes_over > holder_stops - 1e-6
        assert takes_over > tracker.held_until - offset_of_tracker - 1e-6

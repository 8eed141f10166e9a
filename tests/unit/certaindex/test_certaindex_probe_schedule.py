"""When a chain is probed, and about which text, however its stream is cut into pieces."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.probe_schedule import REFLECTION_MARKS, ProbeClock, ProbeSchedule

AT_MARKS = ProbeSchedule(marks=REFLECTION_MARKS, min_gap=1)
# Words and fragments that come close to a mark.
PIECES = st.lists(
    st.sampled_from(
        ["Wait", "wait", "Waiting", "A", "W", "ait", " ", ", ", ".\n\n", "so x = 5", "Alternatively", "é", "_"]
    ),
    max_size=12,
)


def probed(schedule: ProbeSchedule, deltas: list[str], tokens: int = 1, position: int = 0) -> list[tuple[int, str]]:
    """Stream deltas of so many tokens each; return (position, text asked about) of every probe."""
    clock = ProbeClock(schedule, position)
    text, found = "", []
    for delta in deltas:
        text += delta
        position += tokens
        if clock.due(delta, position):
            found.append((position, clock.cut(text)))
    return found


def test_no_schedule_probes_nothing() -> None:
    assert probed(ProbeSchedule(), ["Wait, ", "it is 5. "] * 100, tokens=10) == []


@pytest.mark.parametrize(
    ("tokens", "positions"),
    [
        (1, [64, 128, 192]),
        (10, [70, 130, 200]),  # several at once: the first call at or past the multiple
        (64, [64, 128, 192]),
        (100, [100, 200]),  # multiples that are jumped over together are one probe
    ],
)
def test_intervals_are_multiples_counted_from_the_chains_start(tokens: int, positions: list[int]) -> None:
    schedule = ProbeSchedule(interval=64)
    found = probed(schedule, ["a"] * (200 // tokens), tokens)
    assert [position for position, _ in found] == positions
    assert all(len(text) == position // tokens for position, text in found), "all of the text is asked about"


def test_a_chain_that_goes_on_from_a_checkpoint_is_probed_where_it_would_have_been() -> None:
    whole = probed(ProbeSchedule(interval=64), ["a"] * 300)
    rest = probed(ProbeSchedule(interval=64), ["a"] * 200, position=100)
    assert [position for position, _ in rest] == [position for position, _ in whole if position > 100]


def test_an_interval_shorter_than_the_gap_waits_for_it() -> None:
    found = probed(ProbeSchedule(interval=4, min_gap=10), ["a"] * 40)
    assert [position for position, _ in found] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("deltas", "asked"),
    [
        (["It is 5.\n\n", "Wait", ", no"], ["It is 5.\n\n"]),
        (["It is 5. Wa", "it", "? "], ["It is 5. "]),
        (["It is 5. W", "a", "i", "t", "\n"], ["It is 5. "]),
        (["So 5. Alternatively, use 6"], ["So 5. "]),
        (["So 5. (Wait!)"], ["So 5. ("]),
        (["So 5. Wait", "ing for more. ", "Then"], []),
        (["So 5. A", "Wait. "], []),
        (["So 5. NonAlternatively", ". "], []),
        (["I wait. ", "WAIT. "], []),
        (["wait_Wait_ ", "now "], []),
        (["So 5. Wait"], []),  # not known to be whole yet
        (["5. Wait, 6. Wait, 7"], ["5. Wait, 6. "]),  # both at once: the later thought is the more complete
        (["5. Wait", ", 6. ", "Wait", ", 7"], ["5. ", "5. Wait, 6. "]),
        (["", "5. Wait", "", ",", ""], ["5. "]),
        (["5. Wait — 6"], ["5. "]),
    ],
)
def test_marks_are_whole_words_and_the_probe_is_asked_about_the_thought_before(
    deltas: list[str], asked: list[str]
) -> None:
    assert [text for _, text in probed(AT_MARKS, deltas)] == asked


def test_two_probes_are_a_gap_apart() -> None:
    deltas = ["Wait, ", "5. ", "Wait, ", "6. "] * 10
    positions = [position for position, _ in probed(ProbeSchedule(marks=("Wait",), min_gap=5), deltas)]
    assert positions[0] >= 5, "the first words of a chain are no thought"
    assert all(second - first >= 5 for first, second in pairwise(positions))
    assert len(positions) == 6


def test_a_mark_that_was_passed_over_does_not_cut_a_later_probe() -> None:
    clock = ProbeClock(ProbeSchedule(interval=10, marks=("Wait",), min_gap=8))
    assert not clock.due("5. Wait, ", 4)
    assert clock.due("so it is 6", 12)
    assert clock.cut("5. Wait, so it is 6") == "5. Wait, so it is 6"


def test_marks_and_intervals_together() -> None:
    clock = ProbeClock(ProbeSchedule(interval=10, marks=("Wait",), min_gap=2))
    assert clock.due("abc. Wait,", 8)
    assert clock.cut("abc. Wait,") == "abc. "
    assert clock.due(" def", 10), "the multiple comes all the same"
    assert clock.cut("abc. Wait, def") == "abc. Wait, def"


@given(PIECES, st.data())
def test_how_the_stream_is_cut_does_not_matter(pieces: list[str], data: st.DataObject) -> None:
    """Character by character each mark is found, where a search of the whole text finds it; in pieces, one of each."""
    text = "".join(pieces) + " "
    before_marks = {text[: found.start()] for found in re.finditer(r"(?<!\w)(Wait|Alternatively)(?!\w)", text)}
    assert {cut for _, cut in probed(AT_MARKS, list(text))} == before_marks
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    deltas = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = probed(AT_MARKS, deltas)
    assert {cut for _, cut in found} <= before_marks
    assert bool(found) == bool(before_marks)


@given(
    st.integers(0, 40), st.integers(1, 30), PIECES, st.lists(st.integers(0, 9), min_size=12, max_size=12), st.booleans()
)
def test_probes_are_never_closer_than_the_gap(
    interval: int, min_gap: int, pieces: list[str], steps: list[int], at_marks: bool
) -> None:
    schedule = ProbeSchedule(interval, REFLECTION_MARKS if at_marks else (), min_gap)
    clock = ProbeClock(schedule)
    position, text = 0, ""
    due = [0]
    for piece, step in zip(pieces, steps, strict=False):
        position += step
        text += piece
        if clock.due(piece, position):
            due.append(position)
            assert text.startswith(clock.cut(text))
    assert all(second - first >= min_gap for first, second in pairwise(due))


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"interval": -1}, "every -1 tokens"),
        ({"min_gap": 0}, "0 tokens between two probes"),
        ({"marks": ("",)}, "'' is no mark"),
        ({"marks": ("Wait", " Wait")}, "' Wait' is no mark"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ProbeSchedule(**schedule)

"""The text of a chain and positions in it: any prefix tells which chain it is of, and how many tokens it has."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType, extract
from dynasor_serve.certaindex.hesitation import hesitates
from dynasor_serve.certaindex.probe_schedule import ProbeClock, ProbeSchedule
from dynasor_serve.engines.replay.chain_text import ChainTexts, chain_text
from dynasor_serve.engines.replay.records import GOLD, ProbesRecord
from dynasor_serve.engines.replay.synthetic_text import find_sign, sign

TRIAL_FIELDS = ("token_position", "answer_index", "confidence", "probe_out_tokens")


def chain(**fields: Any) -> ProbesRecord:
    known = {"dataset": "d", "model": "m", "question_id": "q", "gold": "7", "tokens": 200, "final_answer": "7"}
    return ProbesRecord(**{**known, "answers": ("7",), "probes": (), **fields})


def probed_at(*positions: int, tokens: int = 200, **fields: Any) -> ProbesRecord:
    """A chain with trial answers at marks."""
    rows = tuple((float(position), 0.0, 0.5, 4.0) for position in positions)
    return chain(tokens=tokens, probe_fields=TRIAL_FIELDS, probes=rows, **fields)


lengths = st.integers(min_value=1, max_value=400)
chains = lengths.flatmap(
    lambda tokens: st.builds(
        lambda positions, **fields: probed_at(*sorted(positions), tokens=tokens, **fields),
        positions=st.sets(st.integers(min_value=1, max_value=tokens), max_size=12),
        finished=st.booleans(),
        think_tags=st.booleans(),
        final_answer=st.sampled_from(["7", GOLD, "", None, "\\frac{a}{b}"]),
    )
)
widths = st.floats(min_value=1, max_value=9)


@given(record=chains, number=st.integers(0, 600), characters_per_token=widths)
def test_every_token_has_its_characters_and_every_prefix_its_tokens(
    record: ProbesRecord, number: int, characters_per_token: float
) -> None:
    written = chain_text(record, number, characters_per_token=characters_per_token)
    ends = [written.offsets.characters_of(token) for token in range(record.tokens + 1)]

    assert ends[0] == 0
    assert ends[-1] == len(written.text)
    assert all(before < after for before, after in pairwise(ends))
    assert [written.position(end) for end in ends] == list(range(record.tokens + 1))
    assert all(written.position(end - 1) == token for token, end in enumerate(ends[1:]))


@given(record=chains, number=st.integers(0, 600), characters_per_token=widths)
def test_the_mark_of_reflection_stands_right_behind_each_trial_and_nowhere_else(
    record: ProbesRecord, number: int, characters_per_token: float
) -> None:
    written = chain_text(record, number, characters_per_token=characters_per_token)

    marks = [match.start() for match in re.finditer(r"(?<!\w)(?:Wait|Alternatively)(?=\W)", written.text)]

    trials = [probe.position for probe in record.trials() if probe.position < record.tokens]
    assert marks == [written.offsets.characters_of(position) for position in trials]


def test_a_client_that_watches_for_marks_probes_where_the_trials_were_taken() -> None:
    record = probed_at(40, 75, 76, 120, 160)
    written = chain_text(record, 0, characters_per_token=4)
    clock = ProbeClock(ProbeSchedule(marks=("Wait", "Alternatively"), min_gap=1))
    probed, text = [], ""

    for token in range(record.tokens):
        delta = written.text[written.offsets.characters_of(token) : written.offsets.characters_of(token + 1)]
        text += delta
        if clock.due(delta, token + 1):
            probed.append(written.position(len(clock.cut(text))))

    assert probed == [40, 75, 76, 120, 160]


@given(numbers=st.sets(st.integers(0, 2000), min_size=2, max_size=2))
def test_no_sign_is_the_beginning_of_another(numbers: set[int]) -> None:
    one, other = sorted(numbers)

    assert not sign(other).startswith(sign(one))
    assert not sign(one).startswith(sign(other))
    assert find_sign(f"text {sign(one)} text") == (5, one)


@given(number=st.integers(0, 600), characters=st.integers(1, 100))
def test_any_prefix_tells_the_chain(number: int, characters: int) -> None:
    written = chain_text(chain(), number, characters_per_token=4)

    found = find_sign(written.text[: max(characters, len(sign(number)))])

    assert found == (0, number)


def test_a_finished_chain_ends_with_its_answer_and_an_unfinished_one_says_none() -> None:
    finished = chain_text(chain(final_answer=GOLD), 3, characters_per_token=4).text
    unfinished = chain_text(chain(finished=False), 3, characters_per_token=4).text

    assert finished.endswith(" The final answer is \\boxed{7}.")
    assert extract(finished, AnswerType.NUMBER) == "7"
    assert extract(unfinished, AnswerType.NUMBER) is None
    assert not hesitates(unfinished)
    assert abs(len(finished) - 800) <= 4, "four characters to a token"
    assert abs(len(unfinished) - 800) <= 4


def test_thinking_is_written_between_tags_only_if_the_record_says_so() -> None:
    plain = chain_text(chain(), 0, characters_per_token=4).text
    tagged = chain_text(chain(think_tags=True), 0, characters_per_token=4).text
    cut_off = chain_text(chain(think_tags=True, finished=False), 0, characters_per_token=4).text

    assert "think>" not in plain
    assert tagged.startswith(f"<think>\n{sign(0)} ")
    assert tagged.endswith("\n</think>\n\nThe final answer is \\boxed{7}.")
    assert "</think>" not in cut_off


def test_a_recorded_text_is_played_with_its_recorded_positions() -> None:
    record = chain(text="One. Two. Three.", tokens=10, text_positions=((4, 5), (8, 10)))
    written = chain_text(record, 5, characters_per_token=4)

    assert written.text == "One. Two. Three."
    assert [written.position(characters) for characters in (0, 4, 5, 7, 10, 16)] == [0, 3, 4, 6, 8, 10]


@pytest.mark.parametrize(("behind", "asked_from"), [("Wait, no", 5), ("Wait a i", 5), ("Right so", 8), ("Waiting.", 8)])
def test_a_probe_at_a_mark_of_a_recorded_text_holds_from_the_mark_on(behind: str, asked_from: int) -> None:
    fields = ("token_position", "answer_index", "certain", "confidence", "probe_out_tokens")
    record = chain(
        text=f"So Wait. Yes. {behind} .",
        tokens=10,
        text_positions=((3, 9), (5, 14), (8, 22)),
        probe_fields=fields,
        probes=((3.0, 0.0, 1.0, 0.5, 4.0), (8.0, 0.0, 1.0, 0.5, 4.0)),
    )

    assert chain_text(record, 0, characters_per_token=4).asked_from == (1, asked_from), "the first mark is the first's"


def test_the_latest_texts_are_kept() -> None:
    texts = ChainTexts(characters_per_token=0.5, capacity=2)
    first, second, third = chain(), chain(), chain()
    kept = [texts.of(record, 0) for record in (first, second)]

    assert texts.of(first, 0) is kept[0]
    texts.of(third, 0)
    assert texts.of(first, 0) is kept[0], "used since"
    assert texts.of(second, 0) is not kept[1]
    assert len(texts.of(first, 0).text) >= 200, "a position needs a character"

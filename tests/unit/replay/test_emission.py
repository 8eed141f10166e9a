"""Texts, limits and events: whatever the cut, nothing of the text is lost and the tokens are the recorded ones."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.replay.emission import Emission, plan_events, render, trim
from dynasor_serve.engines.replay.traces import GOLD, Sample, SamplesRecord

emissions = st.builds(
    Emission,
    text=st.text(max_size=400),
    tokens=st.integers(min_value=0, max_value=300),
    finish_reason=st.sampled_from(["stop", "length"]),
)


def record(*samples: Sample, gold: str | None = "42") -> SamplesRecord:
    return SamplesRecord(
        dataset="d", model="m", question_id="q", gold=gold, tokens_kind="exact", samples=samples or (sample(),)
    )


def sample(answer: str | None = "42", tokens: int = 100, text: str | None = None, finished: bool = True) -> Sample:
    return Sample(answer=answer, correct=answer == "42", tokens=tokens, text=text, finished=finished)


def pieces(emission: Emission, events: list[int]) -> list[str]:
    return [emission.piece(first, last) for first, last in zip([0, *events], events, strict=False)]


@given(
    emission=emissions,
    stream_interval=st.integers(min_value=1, max_value=50),
    events_per_response=st.none() | st.integers(min_value=1, max_value=50),
)
def test_the_pieces_of_any_event_plan_make_the_whole_text_and_end_at_the_recorded_tokens(
    emission: Emission, stream_interval: int, events_per_response: int | None
) -> None:
    events = list(
        plan_events(emission.tokens, stream_interval=stream_interval, events_per_response=events_per_response)
    )

    assert "".join(pieces(emission, events)) == emission.text
    assert events[-1] == emission.tokens
    assert events == sorted(set(events)), "every event brings tokens"
    if events_per_response is not None:
        assert len(events) == max(1, min(events_per_response, emission.tokens))


@given(emission=emissions, data=st.data())
def test_any_split_into_events_loses_nothing(emission: Emission, data: st.DataObject) -> None:
    inner = st.integers(min_value=1, max_value=max(1, emission.tokens - 1))
    cuts = sorted(set(data.draw(st.lists(inner, max_size=20))))
    events = [*(cut for cut in cuts if cut < emission.tokens), emission.tokens]

    assert "".join(pieces(emission, events)) == emission.text


def test_a_stream_interval_sends_the_first_token_at_once_as_vllm_does() -> None:
    assert plan_events(40, stream_interval=16, events_per_response=None) == (1, 17, 33, 40)
    assert plan_events(1, stream_interval=16, events_per_response=None) == (1,)
    assert plan_events(0, stream_interval=16, events_per_response=None) == (0,)
    assert plan_events(40, stream_interval=16, events_per_response=4) == (10, 20, 30, 40)


def test_a_recorded_text_is_played_as_it_is() -> None:
    emission = render(record(sample(text="So it is \\boxed{7}.", tokens=9)), 0, characters_per_token=4)

    assert (emission.text, emission.tokens, emission.finish_reason) == ("So it is \\boxed{7}.", 9, "stop")


def test_a_synthesised_text_ends_with_the_answer_and_holds_no_other_number() -> None:
    emission = render(record(sample(answer=GOLD, tokens=500)), 0, characters_per_token=4)

    reasoning, _, answer = emission.text.rpartition("The final answer is ")
    assert answer == "\\boxed{42}."
    assert not re.search(r"\d|answer|boxed|wait|hmm", reasoning, re.IGNORECASE)
    assert 0.8 * 2000 < len(emission.text) <= 2000


def test_a_sample_without_an_answer_speaks_of_none() -> None:
    emission = render(record(sample(answer=None, tokens=400, finished=False)), 0, characters_per_token=4)

    assert "answer" not in emission.text
    assert emission.text
    assert emission.finish_reason == "length", "the recorded call had run into its limit"


def test_neighbouring_samples_read_differently_and_the_same_sample_alike() -> None:
    samples = record(sample(tokens=300), sample(tokens=300))

    texts = [render(samples, index, characters_per_token=4).text for index in (0, 1, 0)]

    assert texts[0] != texts[1]
    assert texts[0] == texts[2]


def test_no_filler_leaves_the_answer_alone() -> None:
    assert render(record(), 0, characters_per_token=0).text == "The final answer is \\boxed{42}."


@given(emission=emissions, max_tokens=st.integers(min_value=1, max_value=400))
def test_a_token_limit_cuts_a_prefix_and_says_length(emission: Emission, max_tokens: int) -> None:
    trimmed = trim(emission, max_tokens=max_tokens)

    assert emission.text.startswith(trimmed.text)
    assert trimmed.tokens == min(max_tokens, emission.tokens)
    assert trimmed == emission if max_tokens >= emission.tokens else trimmed.finish_reason == "length"


def test_the_stop_string_that_is_complete_first_ends_the_text() -> None:
    emission = Emission("one, two. three", tokens=15, finish_reason="length")

    trimmed = trim(emission, max_tokens=None, stop=("three", ".", ","))

    assert trimmed == Emission("one", tokens=4, finish_reason="stop", stop_reason=",")
    assert trim(emission, max_tokens=None, stop=(",",), keep_stop=True).text == "one,"
    assert trim(emission, max_tokens=3, stop=(",",)).stop_reason is None, "the limit came before the stop string"
    assert trim(emission, max_tokens=None, stop=("four", "")) == emission

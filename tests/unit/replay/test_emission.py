"""Texts, limits and events: whatever the cut, nothing of the text is lost and the tokens are the recorded ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.replay.emission import Emission, plan_events
from dynasor_serve.engines.replay.token_offsets import TokenOffsets

emissions = st.builds(
    Emission,
    text=st.text(max_size=400),
    tokens=st.integers(min_value=0, max_value=300),
    finish_reason=st.sampled_from(["stop", "length"]),
)


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


@given(emission=emissions, max_tokens=st.integers(min_value=1, max_value=400))
def test_a_token_limit_cuts_a_prefix_and_says_length(emission: Emission, max_tokens: int) -> None:
    trimmed = emission.trimmed(max_tokens=max_tokens)

    assert emission.text.startswith(trimmed.text)
    assert trimmed.tokens == min(max_tokens, emission.tokens)
    assert trimmed == emission if max_tokens >= emission.tokens else trimmed.finish_reason == "length"
    assert all(trimmed.piece(0, token) == emission.piece(0, token) for token in range(1, trimmed.tokens))


def test_the_stop_string_that_is_complete_first_ends_the_text() -> None:
    emission = Emission("one, two. three", tokens=15, finish_reason="length")

    trimmed = emission.trimmed(max_tokens=None, stop=("three", ".", ","))

    assert (trimmed.text, trimmed.tokens, trimmed.finish_reason, trimmed.stop_reason) == ("one", 4, "stop", ",")
    assert emission.trimmed(max_tokens=None, stop=(",",), keep_stop=True).text == "one,"
    assert emission.trimmed(max_tokens=3, stop=(",",)).stop_reason is None, "the limit came before the stop string"
    assert emission.trimmed(max_tokens=None, stop=("four", "")) == emission


@given(emission=emissions, data=st.data())
def test_what_is_left_behind_a_part_has_the_tokens_that_are_left(emission: Emission, data: st.DataObject) -> None:
    characters = data.draw(st.integers(min_value=0, max_value=len(emission.text)))

    rest = emission.after(characters)

    assert emission.text[:characters] + rest.text == emission.text
    assert rest.finish_reason == emission.finish_reason
    assert 0 <= rest.tokens <= emission.tokens
    assert "".join(pieces(rest, [*range(1, rest.tokens), rest.tokens])) == rest.text


@given(
    gaps=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=6),
    data=st.data(),
)
def test_offsets_between_any_points_agree_with_counting(gaps: list[tuple[int, int]], data: st.DataObject) -> None:
    points = [(sum(t for t, _ in gaps[: i + 1]), sum(c for _, c in gaps[: i + 1])) for i in range(len(gaps))]
    tokens, characters = points[-1]
    offsets = TokenOffsets.through(points)
    ends = [offsets.characters_of(token) for token in range(tokens + 1)]

    assert ends == sorted(ends)
    assert [ends[token] for token, _ in points] == [character for _, character in points]
    at = data.draw(st.integers(min_value=0, max_value=characters))
    assert offsets.whole_tokens(at) == max(token for token in range(tokens + 1) if ends[token] <= at)
    assert offsets.touched_tokens(at) == min(token for token in range(tokens + 1) if ends[token] >= at)
    rest = Emission("x" * characters, tokens, "stop", offsets=offsets).after(at)
    done = offsets.whole_tokens(at)
    assert [rest.offset(token) for token in range(1, rest.tokens + 1)] == [end - at for end in ends[done + 1 :]]

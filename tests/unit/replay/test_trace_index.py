"""Which record a prompt means."""

from __future__ import annotations

import pytest

from dynasor_serve.engines.replay.errors import UnknownModel, UnknownPrompt
from dynasor_serve.engines.replay.trace_index import TraceIndex
from dynasor_serve.engines.replay.traces import Sample, SamplesRecord


def record(
    dataset: str = "gsm8k",
    question_id: str = "1",
    model: str = "m",
    run_id: str | None = None,
    method: str | None = None,
    prompt: str | None = None,
) -> SamplesRecord:
    return SamplesRecord(
        dataset=dataset,
        model=model,
        question_id=question_id,
        gold="7",
        tokens_kind="exact",
        samples=(Sample(answer="7", correct=True, tokens=1),),
        run_id=run_id,
        method=method,
        prompt=prompt,
    )


def find(index: TraceIndex, text: str, question: str = "", model: str = "m") -> SamplesRecord:
    return index.find(model, text, question)


def test_a_marker_anywhere_in_the_prompt_selects_its_record() -> None:
    wanted = record(question_id="2")
    index = TraceIndex([record(), wanted])

    assert find(index, "Solve this. [[trace:gsm8k/2]]\nThink step by step.") is wanted


def test_a_question_id_that_begins_with_its_dataset_may_be_given_alone() -> None:
    wanted = record("aime24", "aime24/0")
    index = TraceIndex([wanted])

    assert find(index, "[[trace:aime24/aime24/0]]") is wanted
    assert find(index, "[[trace:aime24/0]]") is wanted


def test_a_full_name_wins_over_a_shortened_one() -> None:
    index = TraceIndex([record("aime24", "aime24/0"), full := record("aime24", "0")])

    assert find(index, "[[trace:aime24/0]]") is full


def test_the_last_marker_counts_since_examples_come_first() -> None:
    index = TraceIndex([record(question_id="1"), wanted := record(question_id="2")])

    assert find(index, "Example: [[trace:gsm8k/1]] … Now: [[trace:gsm8k/2]]") is wanted


def test_runs_of_one_question_are_told_apart_by_run_or_method_and_else_the_first_is_taken() -> None:
    first, second, third = record(run_id="a"), record(run_id="b"), record(method="io T=0.7")
    index = TraceIndex([first, second, third])

    assert find(index, "[[trace:gsm8k/1]]") is first
    assert find(index, "[[trace:gsm8k/1#b]]") is second
    assert find(index, "[[trace:gsm8k/1#io T=0.7]]") is third
    with pytest.raises(UnknownPrompt, match=r"No run 'c' .*recorded: a, b, io T=0\.7"):
        find(index, "[[trace:gsm8k/1#c]]")


def test_a_hash_sign_may_belong_to_the_question_id() -> None:
    wanted = record(question_id="a#b")

    assert find(TraceIndex([wanted]), "[[trace:gsm8k/a#b]]") is wanted


def test_a_recorded_prompt_is_matched_word_for_word_but_for_outer_blanks() -> None:
    wanted = record(prompt="What is 3 + 4?")
    index = TraceIndex([wanted])

    assert find(index, "<user>What is 3 + 4?", "What is 3 + 4?\n") is wanted
    with pytest.raises(UnknownPrompt):
        find(index, "", "What is 3 + 5?")


def test_an_unknown_prompt_is_told_which_markers_would_be_right() -> None:
    index = TraceIndex([record("gsm8k", "17"), record("aime24", "aime24/0")])

    with pytest.raises(UnknownPrompt, match=r"\[\[trace:gsm8k/17\]\], \[\[trace:aime24/aime24/0\]\]"):
        find(index, "hello", "hello")
    with pytest.raises(UnknownPrompt, match=r"No recorded trace for \[\[trace:gsm8k/18\]\]"):
        find(index, "[[trace:gsm8k/18]]")


def test_a_marker_that_fits_two_questions_is_refused() -> None:
    index = TraceIndex([record("a", "b/c"), record("a/b", "c")])

    with pytest.raises(UnknownPrompt, match="ambiguous: dataset 'a' question 'b/c' or dataset 'a/b' question 'c'"):
        find(index, "[[trace:a/b/c]]")


def test_models_are_kept_apart() -> None:
    index = TraceIndex([record(model="m"), other := record(model="n")])

    assert index.models == ("m", "n")
    assert find(index, "[[trace:gsm8k/1]]", model="n") is other
    with pytest.raises(UnknownModel):
        find(index, "[[trace:gsm8k/1]]", model="o")

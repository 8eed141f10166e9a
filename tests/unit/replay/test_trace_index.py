"""Which record a prompt means."""

from __future__ import annotations

from typing import Any

import pytest

from dynasor_serve.engines.replay.chat_template import Prompt, Turn, parse, render
from dynasor_serve.engines.replay.errors import UnknownModel, UnknownPrompt
from dynasor_serve.engines.replay.records import (
    Candidate,
    ProbesRecord,
    Record,
    Sample,
    SamplesRecord,
    Step,
    StepsRecord,
)
from dynasor_serve.engines.replay.trace_index import Chains, TraceIndex


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


def find(index: TraceIndex, text: str, question: str = "", model: str = "m") -> Record:
    return index.find(model, text, question)


def chain(question_id: str = "1", seed: int | None = None, source: str = "bank", **fields: Any) -> ProbesRecord:
    known = {"dataset": "gsm8k", "model": "m", "gold": "7", "tokens": 9, "answers": (), "probes": ()}
    return ProbesRecord(question_id=question_id, seed=seed, source=source, **{**known, **fields})


def tree(question_id: str = "1") -> StepsRecord:
    steps = (Step(candidates=(Candidate(thought="a", tokens=1),)),)
    return StepsRecord(dataset="gsm8k", model="m", question_id=question_id, steps=steps)


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


def runs(index: TraceIndex, prompt: Prompt) -> list[str]:
    """The kinds of the recordings that a prompt means."""
    return [type(recording).__name__ for recording in index.runs_of("m", prompt)]


def test_the_chains_of_a_question_by_one_run_are_one_recording_ordered_by_seed() -> None:
    third, first, second = chain(seed=44), chain(seed=42), chain(seed=43)
    again = chain(seed=42)
    other = chain(seed=1, source="another")
    index = TraceIndex([third, first, other, second, again])

    assert len(index) == 2
    (bank, another) = index.runs_of("m", parse("[[trace:gsm8k/1]]"))
    assert isinstance(bank, Chains)
    assert [id(record) for record in bank.records] == [id(first), id(second), id(third)], "of equal seeds the first"
    assert isinstance(another, Chains)
    assert another.records == (other,)
    assert index.runs_of("m", parse("[[trace:gsm8k/1#another]]")) == [another]


def test_chains_without_seeds_keep_their_order() -> None:
    records = [chain(tokens=tokens) for tokens in (5, 3, 4)]
    (chains,) = TraceIndex(records).runs_of("m", parse("[[trace:gsm8k/1]]"))

    assert isinstance(chains, Chains)
    assert [record.tokens for record in chains.records] == [5, 3, 4]


def test_kinds_of_one_question_are_told_apart_by_name_and_else_come_in_loaded_order() -> None:
    index = TraceIndex([chain(), record(), tree()])

    assert runs(index, parse("[[trace:gsm8k/1]]")) == ["Chains", "SamplesRecord", "StepsRecord"]
    assert runs(index, parse("[[trace:gsm8k/1#samples]]")) == ["SamplesRecord"]
    assert runs(index, parse("[[trace:gsm8k/1#steps]]")) == ["StepsRecord"]
    assert runs(index, parse("[[trace:gsm8k/1#probes]]")) == ["Chains"]


def test_a_rendered_chat_is_found_by_any_of_its_questions_and_by_no_word_of_its_answer() -> None:
    wanted, other = record(question_id="1", prompt="What is 3 + 4?"), record(question_id="2")
    index = TraceIndex([wanted, other])
    turns = [Turn("user", "What is 3 + 4?"), Turn("assistant", "7"), Turn("user", "Are you sure?")]
    rendered = render(turns, add_generation_prompt=True).text

    assert index.runs_of("m", parse(rendered)) == (wanted,)
    assert index.runs_of("m", parse(rendered + "Yes. [[trace:gsm8k/2]]")) == (wanted,)


def test_a_completion_that_goes_on_behind_a_recorded_prompt_means_it_and_the_longest_one_wins() -> None:
    short, long = record(question_id="1", prompt="Add 3"), record(question_id="2", prompt="Add 3 and 4")
    index = TraceIndex([short, long])

    assert index.runs_of("m", parse("Add 3 and 4 is 7")) == (long,)
    assert index.runs_of("m", parse("Add 3 is")) == (short,)


def test_every_recording_may_be_known_by_names_of_its_own() -> None:
    index = TraceIndex([record(model="m"), record(model="n")], names=("judge",))

    assert index.models == ("judge",)
    assert len(index.runs_of("judge", parse("[[trace:gsm8k/1]]"))) == 2

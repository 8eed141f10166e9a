"""Trees played: paths are walked by their text, and every recorded thought is found, judged and gone on from."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.play import Answer, Reply
from dynasor_serve.engines.replay.records import Candidate, FinalCandidate, Step, StepsRecord
from dynasor_serve.engines.replay.suffixes import Ask
from dynasor_serve.engines.replay.traces import read_records
from dynasor_serve.engines.replay.tree import Node, build_tree
from dynasor_serve.engines.replay.tree_play import TreePlay
from dynasor_serve.engines.token_evidence import probability_of_yes
from dynasor_serve.programs.query import RewardParameters
from dynasor_serve.programs.rewards import reward_call

from fakes.replay_process import SYNTHETIC_TREES

QUESTIONS = ("game24-paths", "stepwise", "lines", "narrow")
CONCLUSION = "\n\n**Final Answer**\n\\boxed{"


@cache
def recorded() -> dict[str, StepsRecord]:
    records = read_records([SYNTHETIC_TREES])
    return {record.question_id: record for record in records if isinstance(record, StepsRecord)}


@cache
def play_of(question: str) -> TreePlay:
    return TreePlay(recorded()[question])


def answered(play: TreePlay, path: str, number: int = 0, stop: tuple[str, ...] = ("\n\n",)) -> Answer:
    answer = play.answer(Reply(path, stop), number)
    assert answer is not None, f"nothing was recorded behind {path!r}"
    return answer


def thought(play: TreePlay, path: str, number: int = 0, stop: str = "\n\n") -> Emission:
    """The next thought, as a request that stops at a delimiter gets it."""
    answer = answered(play, path, number, (stop,))
    assert answer.ask is Ask.GO_ON
    return answer.emission.trimmed(max_tokens=None, stop=(stop,), keep_stop=True)


def paths(node: Node, delimiter: str, said: str = "") -> list[tuple[str, Node]]:
    """Every path of a tree with its last node."""
    found = []
    for child in node.children.values():
        path = said + child.text + (delimiter if child.children else "")
        found += [(path, child), *paths(child, delimiter, path)]
    return found


def tree(*steps: list[dict[str, Any]], **fields: Any) -> StepsRecord:
    known = {"dataset": "d", "model": "m", "question_id": "q"}
    candidates = [tuple(Candidate(**{"tokens": 3, **each}) for each in step) for step in steps]
    return StepsRecord(steps=tuple(Step(candidates=step) for step in candidates), **{**known, **fields})


def reward_told(answer: Answer) -> float | None:
    odds = answer.emission.odds
    return probability_of_yes([(answer.emission.text, odds.logprob(0)), *odds.alternatives(0, 19)])


def test_the_fixture_is_as_its_readme_says() -> None:
    assert tuple(recorded()) == QUESTIONS
    assert recorded()["game24-paths"].value_scale == 60
    assert [len(step.candidates) for step in recorded()["stepwise"].steps] == [3, 3, 2]
    assert {recorded()[question].value_scale for question in QUESTIONS[1:]} == {1}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("delimiter", ["\n", "\n\n"])
def test_every_recorded_path_is_walked_to_its_node(question: str, delimiter: str) -> None:
    root = build_tree(recorded()[question])
    play = play_of(question)

    for path, node in paths(root, delimiter):
        walk = play.walk(path)
        assert walk.begun == ""
        assert (walk.end.text, walk.end.tokens, walk.end.reward) == (node.text, node.tokens, node.reward)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("delimiter", ["\n", "\n\n"])
def test_an_expansion_gives_the_recorded_thoughts_in_turn_with_their_tokens(question: str, delimiter: str) -> None:
    root = build_tree(recorded()[question])
    play = play_of(question)

    for path, node in [("", root), *paths(root, delimiter)]:
        children = list(node.children.values())
        for number in range(2 * len(children)):
            child = children[number % len(children)]
            emission = thought(play, path, number, delimiter)
            if delimiter in child.text:  # a step of several lines is cut at the first by who stops at lines
                assert emission.text == child.text[: child.text.index(delimiter) + len(delimiter)]
                continue
            ending = (delimiter, delimiter) if child.children else ("", None)
            assert (emission.text, emission.stop_reason) == (child.text + ending[0], ending[1])
            assert (emission.tokens, emission.finish_reason) == (child.tokens, "stop")


def test_whole_paths_are_told_by_their_beginnings_and_not_by_their_numbers() -> None:
    play = play_of("game24-paths")

    (first, second) = (thought(play, "6 * 8 = 48 (left: 4 6 48)\n", number, "\n") for number in (0, 1))

    assert first.text == "6 - 4 = 2 (left: 2 48)\n"
    assert (first.tokens, second.tokens) == (33 - 17, 33 - 17), "those of the path less those before"
    assert second.text == "48 / 6 = 8 (left: 4 8)", "nothing was recorded behind it"
    assert second.stop_reason is None


def test_a_thought_that_begins_like_its_sibling_is_told_by_where_it_ends() -> None:
    play = play_of("lines")

    assert thought(play, "Let x be the number.\nThen 2x = 10.\n\n").text == "Halve both sides.\n\n"
    assert thought(play, "Let x be the number.\n\n").text == "Write 2x = 10.\n\n"
    assert thought(play, "Let x be the number.\nThen").text == " 2x = 10.\n\n"


@given(question=st.sampled_from(QUESTIONS), which=st.integers(0, 99), characters=st.integers(1, 60))
def test_a_path_that_breaks_off_in_a_thought_goes_on_with_it(question: str, which: int, characters: int) -> None:
    every = paths(build_tree(recorded()[question]), "\n\n")
    path, node = every[which % len(every)]
    characters = min(characters, len(node.text) - 1)
    begun = path.removesuffix("\n\n")
    begun = begun[: len(begun) - len(node.text) + characters]

    rest = thought(play_of(question), begun)

    assert play_of(question).walk(begun).begun or rest.text, "whole thoughts and begun ones alike go on"
    if play_of(question).walk(begun).begun:
        ended = play_of(question).walk(begun + rest.text)
        assert ended.begun == ""
        assert ended.end.text.startswith(node.text[:characters])
        assert 0 < rest.tokens <= ended.end.tokens


def test_a_request_without_a_delimiter_gets_the_recorded_path_to_its_end() -> None:
    emission = answered(play_of("stepwise"), "", stop=()).emission

    lines = emission.text.split("\n")
    assert lines == [
        "The train runs 3 hours at 4 miles an hour.",
        "So it runs 3 * 4 = 12 miles.",
        "The final answer is \\boxed{12}.",
    ]
    assert emission.tokens == 12 + 11 + 10
    assert emission.finish_reason == "stop"


def test_behind_a_path_that_has_ended_nothing_comes() -> None:
    emission = thought(play_of("narrow"), "First.\n\nSecond.\n\nThe final answer is \\boxed{3}.")

    assert (emission.text, emission.tokens, emission.finish_reason, emission.stop_reason) == ("", 0, "stop", None)


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("closed", ["", "\n</think>\n\n"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_path_is_judged_by_its_recorded_value(question: str, closed: str, is_complete: bool) -> None:
    suffix = closed + reward_call(RewardParameters(), "", is_complete=is_complete).suffix
    play = play_of(question)

    for path, node in paths(build_tree(recorded()[question]), "\n\n"):
        answer = answered(play, path + suffix)
        reward = 0.5 if node.reward is None else node.reward
        assert (answer.ask, answer.emission.tokens) == (Ask.JUDGE, 1)
        assert reward_told(answer) == pytest.approx(reward, abs=1e-9)
        rewards = play.rewards(path)
        assert rewards is not None
        assert (rewards.steps[-1], rewards.characters) == (reward, len(path))


def test_values_of_votes_become_shares_of_the_largest_sum_in_the_same_order() -> None:
    play = play_of("game24-paths")
    first = "6 * 8 = 48 (left: 4 6 48)\n"

    rewards = play.rewards(first + "6 - 4 = 2 (left: 2 48)\n48 / 2 = 24 (left: 24)\n")

    assert rewards is not None
    assert rewards.steps == pytest.approx((40.001 / 60, 41 / 60, 1.0))


def test_a_path_is_judged_as_far_as_it_was_recorded() -> None:
    play = play_of("stepwise")
    begun = "The train runs 3 hours at 4 miles an hour.\n\nNobody thought this."

    rewards = play.rewards(begun)

    assert rewards is not None
    assert (rewards.steps, rewards.characters) == ((0.9,), len(begun) - len("Nobody thought this."))
    assert play.rewards("Nobody thought this.") is None
    assert play.answer(Reply(begun), 0) is None


def test_an_answer_is_that_of_the_path_which_the_search_went_on_with() -> None:
    play = play_of("stepwise")
    right, wrong = "The train runs 3 hours at 4 miles an hour.\n\n", "The train runs 4 hours at 4 miles an hour.\n\n"
    dead_end = "Speed times time is distance."

    assert answered(play, right + CONCLUSION).emission.text == "12}."
    assert answered(play, wrong + CONCLUSION).emission.text == "16}."
    assert answered(play, wrong + "\n</think>\n\nMy answer is \\boxed{").emission.text == "16}."
    assert answered(play, dead_end + CONCLUSION).emission.text == "}."


def test_a_thought_that_was_recorded_twice_is_twice_as_likely() -> None:
    play = TreePlay(tree([{"thought": "a"}, {"thought": "b"}, {"thought": "a"}]))

    assert [thought(play, "", number).text for number in range(6)] == ["a", "b", "a"] * 2


def test_a_candidate_that_adds_no_words_is_its_parent_over_again() -> None:
    root = build_tree(
        tree([{"thought": "a\n", "selected": True}], [{"thought": "a\n"}, {"thought": "a\nb\n"}, {"thought": "a\n\n"}])
    )

    assert list(root.children["a"].children) == ["b"]


def test_calls_without_a_branch_take_turns_at_each_recorded_place() -> None:
    play = play_of("stepwise")

    places = [play.turn(Reply(path)) for path in ("", "The train runs 3 hours at 4 miles an hour.\n\n")]

    assert None not in places
    assert len(set(places)) == 2
    assert play.turn(Reply("Nobody thought this.")) is None


def test_parents_are_counted_among_the_selected_candidates() -> None:
    root = build_tree(
        tree(
            [{"thought": "a"}, {"thought": "b", "selected": True}, {"thought": "c", "selected": True}],
            [{"thought": "x", "parent": 1}, {"thought": "y", "parent": 0}],
        )
    )

    assert {text: list(child.children) for text, child in root.children.items()} == {"a": [], "b": ["y"], "c": ["x"]}
    assert root.successor is root.children["b"]


def test_answers_of_final_candidates_are_found_however_their_steps_are_parted() -> None:
    record = tree(
        [{"thought": "a\n\n", "selected": True}],
        [{"thought": "so 7"}, {"thought": "so 8"}],
        gold="7",
        final=(FinalCandidate(y="a\n\nso 7", answer="=gold"), FinalCandidate(thought="so 8", answer="8")),
    )

    ends = build_tree(record).children["a"].children

    assert [node.answer for node in ends.values()] == ["7", "8"]


def test_a_reply_begins_where_a_recorded_thought_begins() -> None:
    play = play_of("stepwise")

    assert play.find_start(" Step by step.\nThe train runs 4 hours at 4") == len(" Step by step.\n")
    assert play.find_start(" Step by step.\n") is None

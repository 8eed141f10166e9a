"""Steps of a tree: when a path is complete, what each call asks, and what cannot work."""

from __future__ import annotations

import pytest

from dynasor_serve.certaindex.answers import AnswerType, extract_announced
from dynasor_serve.programs.calls import CallPlan, Judge
from dynasor_serve.programs.events import CallFinished
from dynasor_serve.programs.program import accept
from dynasor_serve.programs.query import InvalidQuery, RewardSource
from dynasor_serve.programs.tree import STEP_END, Node, Tree, TreeShape
from unit.programs.lives import asked, said


def planted(
    *, source: RewardSource = RewardSource.OWN, stop: tuple[str, ...] = (), answer_type: str = "number"
) -> Tree:
    """A root with two children, the first of them said: paths of 100 tokens, steps of 40."""
    query = asked("rebase", source=source, max_tokens=100, stop=stop, answer_type=answer_type).query
    tree = Tree(TreeShape.of(query, step_tokens=40, max_depth=3)).grown(None, 2)
    return tree.said(0, step("First.\n\n", 30)).grown(0, 1)


def step(text: str, tokens: int = 10, answer: str | None = None) -> CallFinished:
    return said(0, text, answer, tokens=tokens, stopped_at=STEP_END)


def test_a_step_goes_on_from_its_path() -> None:
    tree = planted()

    assert tree.nodes[2] == Node(parent=0, depth=2)
    assert tree.step_call(2) == CallPlan(continuation="First.\n\n", max_tokens=40, stop=("\n\n",), keeps_stop=True)
    assert tree.said(2, step("Second.\n\n")).path(2) == "First.\n\nSecond.\n\n"


def test_a_step_gets_no_more_tokens_than_its_path_has_left() -> None:
    tree = planted().said(2, step("Second.\n\n", 35)).grown(2, 1)

    assert tree.step_call(3).max_tokens == 35
    assert tree.step_call(3, to_the_end=True) == CallPlan(continuation=tree.path(2), max_tokens=35)


def test_the_querys_stop_strings_stay_and_end_a_path() -> None:
    tree = planted(stop=("\nQ:",))
    assert tree.step_call(2).stop == ("\nQ:", "\n\n")

    ended = tree.said(2, said(2, "It is 7.\nQ:", "7", stopped_at="\nQ:")).nodes[2]

    assert (ended.is_complete, ended.answer, ended.text) == (True, "7", "It is 7.")


@pytest.mark.parametrize(
    "text",
    [
        "So it is \\boxed{7}.\n\n",
        "The answer is 7.\n\n",
        "**Answer:** 7\n\n",
        "#### 7\n\n",
        "<think>Is it 8?</think>The answer is 7\n\n",
    ],
)
def test_a_step_that_announces_its_answer_completes_the_path(text: str) -> None:
    node = planted().said(2, step(text, answer="7")).nodes[2]

    assert (node.is_complete, node.answer, node.reward) == (True, "7", None)


@pytest.mark.parametrize(
    "text",
    [
        "So far that makes 7.\n\n",
        "7\n\n",
        "# 7\n\n",
        "We put it in \\boxed{} later.\n\n",
        "<think>The answer is 7.\n\n",
    ],
)
def test_a_number_in_passing_announces_nothing(text: str) -> None:
    node = planted().said(2, step(text, answer="7")).nodes[2]

    assert (node.is_complete, node.answer, node.reward) == (False, None, None)


def test_what_is_announced_is_of_the_type_that_was_asked_for() -> None:
    assert extract_announced("The answer is (B).\n\n", AnswerType.CHOICE) == "B"
    assert extract_announced("The answer is unclear.\n\n", AnswerType.NUMBER) is None
    assert extract_announced("The answer is yes.\n\n", AnswerType.TEXT) == "yes."


def test_a_model_that_stops_by_itself_completes_the_path() -> None:
    node = planted().said(2, said(2, "That makes 7.", "7")).nodes[2]

    assert (node.is_complete, node.answer, node.reward) == (True, "7", None)


def test_a_step_that_runs_out_of_tokens_goes_on_in_the_next() -> None:
    node = planted().said(2, said(2, "and then", "7", tokens=40, finish_reason="length")).nodes[2]

    assert (node.is_complete, node.tokens) == (False, 70)


@pytest.mark.parametrize("finish", [{"finish_reason": "length"}, {"stopped_at": STEP_END}])
def test_a_path_that_runs_out_of_tokens_has_no_answer_and_no_reward(finish: dict[str, str]) -> None:
    node = planted().said(2, said(2, "and 7\n\n", "7", tokens=70, **finish)).nodes[2]

    assert (node.is_complete, node.answer, node.reward) == (True, None, 0.0)


def test_a_path_that_is_cut_off_counts_where_it_had_announced_its_answer() -> None:
    cut = said(2, "The answer is 7. It is", "7", tokens=70, finish_reason="length")

    node = planted().said(2, cut).nodes[2]

    assert (node.is_complete, node.answer, node.reward) == (True, "7", None)


def test_a_blank_line_that_the_query_stops_at_ends_the_path() -> None:
    node = planted(stop=("\n\n",)).said(2, step("That makes 7.\n\n", answer="7")).nodes[2]

    assert (node.is_complete, node.answer) == (True, "7")


def test_the_first_reward_holds_and_what_is_lost_is_not_judged() -> None:
    tree = planted().judged(0, 0.25).judged(0, 0.75).lost(1).judged(1, 0.5).lost(0)

    assert (tree.nodes[0].reward, tree.nodes[0].is_lost) == (0.25, False)
    assert (tree.nodes[1].reward, tree.nodes[1].is_lost) == (None, True)


@pytest.mark.parametrize(
    ("source", "of_a_step", "of_a_solution"),
    [
        (RewardSource.OWN, Judge.OWN, Judge.OWN),
        (RewardSource.MODEL, Judge.MODEL, Judge.MODEL),
        (RewardSource.VERIFIER, Judge.OWN, None),  # a verifier cannot tell what half a solution is worth
    ],
)
def test_who_judges(source: RewardSource, of_a_step: Judge, of_a_solution: Judge | None) -> None:
    tree = planted(source=source).said(2, step("\\boxed{7}\n\n", answer="7"))

    assert tree.judging_call(0).judge is of_a_step
    assert tree.judging_call(0).continuation == "First.\n\n"
    assert tree.awaits_verifier(2) == (of_a_solution is None)
    if of_a_solution is not None:
        assert tree.judging_call(2).judge is of_a_solution


def test_steps_are_asked_whether_they_are_right_so_far() -> None:
    tree = planted().said(2, step("\\boxed{7}\n\n", answer="7"))

    assert "so far" in tree.judging_call(0).suffix
    assert "so far" not in tree.judging_call(2).suffix


@pytest.mark.parametrize("algorithm", ["rebase:step_tokens=101", "mcts:step_tokens=101"])
def test_a_step_that_is_longer_than_its_path_is_refused(algorithm: str) -> None:
    with pytest.raises(InvalidQuery, match=r"algorithm.step_tokens: is 101, and a path has 100 .*max_tokens"):
        accept(asked(algorithm, max_tokens=100))


def test_a_stop_string_behind_a_blank_line_is_refused() -> None:
    with pytest.raises(InvalidQuery, match=r"sampling.stop: holds '\\n\\nQ:'"):
        planted(stop=("\n\nQ:",))

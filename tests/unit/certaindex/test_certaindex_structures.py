"""Answers made of answers: what equals what is told by their parts."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType, canonical, equal_by_keys
from dynasor_serve.certaindex.clusters import AnswerClusters


def equal(left: str, right: str) -> bool | None:
    keys = [canonical(answer, AnswerType.MATH).key for answer in (left, right)]
    assert equal_by_keys(keys[0], keys[1]) is equal_by_keys(keys[1], keys[0])
    return equal_by_keys(keys[0], keys[1])


SAME = [
    # Sets have no order, and hold nothing twice.
    [r"\{1,2\}", r"\{2,1\}", r"\left\{ 1, 2 \right\}", "{1,2}", r"\{1,2,1\}", r"x\in\{1,2\}",
     r"x \in \{\frac{4}{2}, 1.0\}"],
    ["x=1 or x=2", r"x=1\text{ or }x=2", "x = 1, x = 2", "x=2, 1", r"1 \text{ and } 2", "2 and 1", "1, 2", "2;1",
     r"x_1=1\text{ or }x_1=2"],
    [r"\pm 2", "±2", r"x=\pm2", "2, -2", r"\{-2,2\}", r"-2\text{ or }2"],
    [r"1\pm\sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", r"x=1\pm\sqrt{19}"],
    [r"\{1\pm\sqrt{5},-2\}", r"\{-2,1+\sqrt{5},1-\sqrt{5}\}", r"-2, 1\pm\sqrt5"],
    [r"\{5\}", "5", "x=5", "{5}", r"x\in\{5\}"],
    [r"\emptyset", r"\varnothing", r"\{\}", "∅"],
    # Points have an order. A list may be a point whose brackets were left out.
    ["(1,2)", r"\left(1, 2\right)", "(1.0,\\; 2)", r"\langle 1, 2\rangle", "(x,y)=(1,2)", "P=(1,2)", "1,2"],
    ["(6,31,-1)", "6,31,-1", r"\left( 6, 31, -1 \right)"],
    ["(3,400)", "(3, 400)", "3, 400"],
    [r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)", r"3,\dfrac\pi2", r"(3,\\frac{\pi}{2})"],
    ["(5 cm, 3)", "(5, 3)"],
    ["(1,2),(3,4)", "(3,4), (1,2)", r"\{(3,4),(1,2)\}"],
    # Intervals.
    ["(1,2]", r"1<x\le 2", "1<x<=2", r"2\geq x>1", r"x\in(1,2]", r"\left(1,\frac{4}{2}\right]"],
    [r"(5,\infty)", "x>5", "5<x", r"x\in(5,+\infty)", r"(5, ∞)"],
    [r"(-\infty,3)\cup(5,\infty)", r"(5,\infty)\cup(-\infty,3)", r"x\in(-\infty,3)\cup(5,\infty)",
     r"x<3\text{ or }x>5", "x<3 or x>5", r"((-\infty,3)\cup(5,\infty))"],
    [r"(-\infty,3)\cup(3,\infty)", r"x\ne3", "x≠3", "x != 3"],
    [r"\mathbb{R}", r"(-\infty,\infty)", r"x\in\mathbb{R}"],
    # Matrices, whatever their brackets.
    [r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \\ \end{bmatrix}",
     r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]",
     r"\left(\begin{matrix}1.0&2\\3&\frac{8}{2}\end{matrix}\right)",
     r"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"],
]  # fmt: skip


@pytest.mark.parametrize("group", SAME, ids=lambda group: str(group[0]))
def test_what_is_the_same(group: list[str]) -> None:
    """Each equals the group's first; the others need not equal each other (a list equals a set, and a point)."""
    different = [answer for answer in group if equal(group[0], answer) is not True]
    assert not different, [(answer, canonical(answer, AnswerType.MATH)) for answer in different]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(1,2)", "(2,1)"),
        ("(1,2)", "2,1"),  # a list in another order is another point
        ("(1,2)", r"\{1,2\}"),
        ("(1,2)", "[1,2]"),
        ("(1,2]", "[1,2)"),
        ("[1,2]", "1,2"),
        ("1,1,2", "1,2,2"),
        ("1,2", "1,2,3"),
        ("(1,2)", "(1,2,3)"),
        ("(3,400)", "3400"),
        ("3, 400", "3,400"),
        (r"\{1,2\}", "1"),
        (r"(5,\infty)", r"[5,\infty)"),
        ("x>5", "x<5"),
        ("1<x<2", "1<x<3"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\pm2", "2"),
        ("(5,500%)", "(5,5)"),
        ("(a,b)", "(b,a)"),
        (r"\emptyset", "0"),
        ("x=1,y=2", "x=2,y=1"),
    ],
)
def test_what_is_not_the_same(left: str, right: str) -> None:
    assert equal(left, right) is not True


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"(1,\sqrt{4})", "(1,2)"),
        (r"\{1,\sqrt{4}\}", "1,2"),
        (r"(1,2]\cup(2,3)", "(1,3)"),  # two ways to write one union
        (r"(0,2)\cup(1,3)", "(0,3)"),
        (r"\{1\}\cup(2,3)", r"(2,3)\cup\{1\}\cup\{1\}"),
        (r"x>\sqrt{4}", r"(2,\infty)"),
        ("x=1,y=2", "(1,2)"),
        (r"\begin{pmatrix}\sqrt4\end{pmatrix}", r"\begin{pmatrix}2\end{pmatrix}"),
    ],
)
def test_what_takes_algebra_is_asked(left: str, right: str) -> None:
    assert equal(left, right) is None


@pytest.mark.parametrize(
    ("left", "right"),
    [(r"(1,\sqrt{4})", r"(2,\sqrt{4})"), (r"(1,\sqrt{4})", r"[1,\sqrt{4}]"), (r"\{1,\sqrt{4}\}", "1,2,3"),
     (r"(1,\sqrt{4})", "7"), (r"\{1,\sqrt{4}\}", r"(1,\sqrt{4})")],
)  # fmt: skip
def test_parts_that_differ_need_no_algebra(left: str, right: str) -> None:
    assert equal(left, right) is False


NUMBERS = st.lists(st.integers(-20, 20).map(str), min_size=2, max_size=6)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_order_of_a_set_says_nothing(numbers: list[str], random: Random) -> None:
    shuffled = sorted(numbers, key=lambda _: random.random())
    assert canonical(rf"\{{{', '.join(numbers)}\}}", AnswerType.MATH) == canonical(
        rf"\left\{{{','.join(shuffled)}\right\}}", AnswerType.MATH
    )
    assert equal("; ".join(numbers), ";".join(shuffled)) is True
    assert equal(f"({','.join(numbers)})", f"({','.join(shuffled)})") is (numbers == shuffled)


PARTS = st.sampled_from(
    ["1", "2", "-3", r"\frac{1}{2}", r"\sqrt{4}", "x", r"\infty", "(1,2)", r"\pm1", "", "a=1", r"\text{no}"]
)
WRITTEN = st.builds(
    lambda parts, separator, brackets: brackets[0] + separator.join(parts) + brackets[1],
    st.lists(PARTS, max_size=5),
    st.sampled_from([",", ";", r"\cup", r"\text{or}", "&", r"\\", "<", r"\le"]),
    st.sampled_from(["()", "[]", "(]", "  ", "{}", ("x=", ""), (r"\{", r"\}"), (r"\begin{pmatrix}", r"\end{pmatrix}")]),
)  # fmt: skip


@given(WRITTEN, WRITTEN)
def test_equality_of_keys_is_reflexive_symmetric_and_stable(left: str, right: str) -> None:
    forms = [canonical(answer, AnswerType.MATH) for answer in (left, right)]
    for form in forms:
        assert not form.decided or canonical(form.key, AnswerType.MATH) == form, "the evaluator reads keys"
    if all(form.key for form in forms):
        keys = [form.key for form in forms]
        assert equal_by_keys(keys[0], keys[0]) is True
        assert equal_by_keys(keys[0], keys[1]) is equal_by_keys(keys[1], keys[0])


def test_a_list_joins_the_cluster_that_it_equals() -> None:
    clusters = AnswerClusters.empty(AnswerType.MATH)
    for answer in ("1,2", r"\{2,1\}", "(2,1)", "2,1", "(1,2)", "7"):
        clusters = clusters.add(answer)
    # `1,2` came first and is the set; as a point it would be (1,2), which therefore joins it, and (2,1) does not.
    assert clusters.labels == (0, 0, 1, 0, 0, 2)
    assert clusters.questions() == ()


@pytest.mark.parametrize("order", [*itertools.permutations(("(6,31,-1)", "6,31,-1", "31,6,-1"))])
def test_points_without_brackets_do_not_join_two_points(order: tuple[str, ...]) -> None:
    clusters = AnswerClusters.empty(AnswerType.MATH)
    for answer in (*order, "(31,6,-1)"):
        clusters = clusters.add(answer)
    assert not clusters.same("(6,31,-1)", "(31,6,-1)")

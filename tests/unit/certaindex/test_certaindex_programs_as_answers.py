"""Programs as answers: found in text, and in one spelling."""

import pytest

from dynasor_serve.certaindex.answers import AnswerType, canonical, extract
from dynasor_serve.certaindex.answers.code import MAX_CODE_CHARACTERS
from dynasor_serve.certaindex.clusters import AnswerClusters

DOUBLE = "def double(x):\n    return 2 * x"


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"First:\n{block('def f(): pass')}\nNo:\n{block(DOUBLE)}\nDone.", DOUBLE),
        (f"{block(DOUBLE)}\nIt prints:\n{block('4', '')}", DOUBLE),
        (f"{block('ls', 'bash')}\n{block(DOUBLE, '')}", DOUBLE),
        (f"```python\n{DOUBLE}", DOUBLE),  # cut off
        (f"<think>{block('def f(): pass')}</think>\n{block(DOUBLE, 'py')}", DOUBLE),
        (f"<think>{block(DOUBLE)}", None),  # it was still thinking
        (DOUBLE, DOUBLE),
        ("I do not know.", None),
        ("x", None),
        (block(""), None),
        (block("ls", "bash"), None),
    ],
)
def test_a_program_is_found(text: str, found: str | None) -> None:
    assert extract(text, AnswerType.CODE) == found


def test_layout_comments_and_docstrings_say_nothing() -> None:
    written = [
        DOUBLE,
        'def double( x ):\n  """Twice x."""\n  # easy\n  return (2*x)\n',
        '"""A module."""\ndef double(x): return 2 * x',
    ]
    assert {canonical(each, AnswerType.CODE).key for each in written} == {DOUBLE}


@pytest.mark.parametrize("other", ["def double(y):\n    return 2 * y", "def double(x):\n    return x + x"])
def test_what_only_running_can_tell_is_asked(other: str) -> None:
    clusters = AnswerClusters.empty(AnswerType.CODE).add(DOUBLE).add(other).add(DOUBLE + "  # again")
    assert clusters.labels == (0, 1, 0)
    assert clusters.questions() == ((DOUBLE, other),)
    assert clusters.merge(DOUBLE, other).labels == (0, 0, 0)


@pytest.mark.parametrize(
    "broken",
    [
        "def double(x:",
        "\x00",
        "(" * 300,
        "-" * MAX_CODE_CHARACTERS,
        "x = 1\n" * MAX_CODE_CHARACTERS,
        "\ud800",
    ],
)
def test_what_is_no_program_equals_its_copies_only(broken: str) -> None:
    form = canonical(broken, AnswerType.CODE)
    assert form == canonical(broken, AnswerType.CODE)
    assert form.decided
    assert 0 < len(form.key) <= MAX_CODE_CHARACTERS


def test_a_docstring_alone_is_a_program_that_does_nothing() -> None:
    assert canonical('def f():\n    """Nothing."""', AnswerType.CODE) == canonical("def f(): pass", AnswerType.CODE)

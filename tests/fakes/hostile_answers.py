"""Texts that a model, or whoever prompts it, could write to hurt whoever reads answers. Drawn from a seed."""

from collections.abc import Iterator
from random import Random

# What answers are made of, whole and in pieces.
_PIECES = (
    *"0123456789+-=/(){}[]^_.,;:%$&|!<>~'\" \n\tabcxyzABCeinf\\",
    *(
        r"\frac",
        r"\frac{",
        r"\dfrac12",
        r"\sqrt",
        r"\sqrt[",
        r"\text{",
        r"\text{or}",
        r"\text{and}",
        r"\mathrm{",
        r"\left",
    ),
    *(
        r"\right",
        r"\left(",
        r"\right.",
        r"\boxed{",
        r"\fbox{",
        r"\pm",
        r"\mp",
        r"\cup",
        r"\infty",
        r"\in",
        r"\le",
        r"\ne",
    ),
    *(r"\{", r"\}", r"\\", r"\langle", r"\begin{pmatrix}", r"\end{pmatrix}", r"\begin{array}{cc}", r"\begin", r"\end{"),
    *(
        r"\times",
        r"\cdot10^{",
        r"\circ",
        r"\binom",
        r"\sum_{k=1}^{n}",
        r"\int_0^1",
        r"\lim_{x\to0}",
        r"\mathbb{R}",
        r"\log",
    ),
    *(
        "e9",
        "e999999999",
        "1e400",
        "9^9^9^9",
        "9**9**9**9",
        "10^{10^{10}}",
        "9" * 60,
        "0." + "0" * 60 + "1",
        "1,000",
        "1/0",
    ),
    *(
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "None",
        "null",
        "undefined",
        "i",
        "1j",
        "0x10",
        "1_000",
        "٣",
        "½",
        "²",
        "π",
    ),
    *(
        "−",
        "·",
        "√",
        "∞",
        "±",
        "∪",
        "∈",
        "≤",
        "．",
        "，",
        "％",
        "Ａ",
        "ﬀ",
        "\ufdfa",
        "ß",
        "İ",
        "e\u0301",
        "\u200b",
        "\u202e",
    ),
    *(
        "\ufeff",
        "\ud800",
        "\udfff",
        "\x00",
        "\x07",
        "\x1b[2J",
        "\x7f",
        "\u2028",
        "\U0001f600",
        "\U000e0041",
        "\r\n",
        "\x85",
    ),
    *(
        "<think>",
        "</think>",
        "answer is ",
        "The answer: ",
        "#### ",
        "**",
        "Option B",
        "(B)",
        "A, C",
        "```python\n",
        "```",
    ),
    *(" or ", " and ", "x=", "x>", "f(x)=", "x_{1}=", "1 1/2", "5 million", "12 cm", "50%", "import os; os.abort()"),
)
_ANSWERS = (
    "42", r"\frac{\sqrt{3}}{2}", r"(3,\frac{\pi}{2})", r"\{1,2,3\}", r"(-\infty,3)\cup[5,\infty)", r"1\pm\sqrt{2}",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "x=1 or x=2", "1,2", "12 cm", r"\text{even}", "(x+1)^2", "1<x<=2", "A, C",
    "def f(x):\n    return x + 1", "The Eiffel Tower", r"The answer is \boxed{\frac{1}{2}}.", "[1,2]", "3, 400",
)  # fmt: skip
_OPENERS = (
    "{",
    "(",
    "[",
    r"\{",
    r"\frac{",
    r"\sqrt{",
    r"\boxed{",
    r"\text{",
    "x^{",
    "2^",
    "-",
    r"\left(",
    r"1\pm",
    "1,",
    "1;",
    r"\begin{",
)
_CLOSERS = {
    "{": "}",
    "(": ")",
    "[": "]",
    r"\{": r"\}",
    r"\frac{": "}{2}",
    r"\sqrt{": "}",
    r"\boxed{": "}",
    r"\text{": "}",
    "x^{": "}",
}


def hostile_answers(seed: int, number: int) -> Iterator[str]:
    """Yield that many texts; most are short, some nest hundreds deep, a few in a thousand are megabytes long."""
    for index in range(number):
        random = Random(f"{seed}/{index}")
        make = random.choices((_spliced, _mixed, _nested, _repeated), weights=(40, 40, 17, 3))[0]
        yield make(random)


def _mixed(random: Random) -> str:
    return "".join(random.choices(_PIECES, k=random.choice((1, 3, 8, 20, 60, 300))))


def _spliced(random: Random) -> str:
    """Two right answers, cut anywhere, with something between them."""
    left, right = random.choices(_ANSWERS, k=2)
    middle = "".join(random.choices(_PIECES, k=random.randrange(4)))
    return left[: random.randint(0, len(left))] + middle + right[random.randint(0, len(right)) :]


def _nested(random: Random) -> str:
    """Brackets in brackets, with as many closed as opened, or not quite."""
    opener, depth = random.choice(_OPENERS), random.choice((2, 5, 30, 120, 400, 3000))
    closed = depth + random.choice((-1, 0, 0, 0, 1))
    return opener * depth + _spliced(random) + _CLOSERS.get(opener, "") * closed


def _repeated(random: Random) -> str:
    """The same piece, up to a million characters of it."""
    piece = random.choice((*_PIECES, *_ANSWERS, *_OPENERS))
    return piece * (10 ** random.choice((3, 4, 5, 6)) // len(piece))

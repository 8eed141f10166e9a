"""The kinds of answers a query can ask for."""

from enum import StrEnum


class AnswerType(StrEnum):
    """What kind of answer a query expects; decides how one is read from text and when two are equal."""

    NUMBER = "number"  # one number, maybe with a unit
    CHOICE = "choice"  # a letter A–J, or several
    MATH = "math"  # a LaTeX expression, normally in \boxed{}
    TEXT = "text"  # words, compared after case and spaces are folded
    FREE_TEXT = "free-text"  # words, compared by a similarity
    CODE = "code"  # a Python program, compared by what it does on the query's tests

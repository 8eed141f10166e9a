"""`python -m dynasor_serve.evaluator.equality_worker PARENT_PID MEMORY_BYTES`: decides pairs of answers, one by one.

Started by `equality_pool` and by nobody else. Reads one JSON object per line, `{"id", "left", "right", "seconds"}`, and
writes one, `{"id", "equal"}`; the first line that it writes is `{"ready": true}`. What it reads was written by a model
and may be hostile, so it holds nothing worth having, its memory and its CPU time are limited, it dies with its parent,
and the pool kills it when it is late.
"""

import json
import logging
import os
import re
import resource
import sys
from contextlib import suppress
from functools import lru_cache
from math import ceil
from typing import Any, Final

from math_verify import LatexExtractionConfig, parse, verify
from sympy import And, Expr, Float, Rational
from sympy.core.relational import Relational
from sympy.sets import Set

from dynasor_serve.certaindex.answers import AnswerType, canonical, equal_by_keys
from dynasor_serve.certaindex.answers.structures import equal_by_parts
from dynasor_serve.evaluator.parent_death import die_with

# Decimal places in which two decimals must agree. math-verify's own 6 takes 0.0000001 and 0.0000002 for equal.
_FLOAT_PLACES: Final = 12
# All but "f(2)=0" and the like, which give a name to a value.
_EQUATION_TO_ZERO: Final = re.compile(r"(?!\w+(?:\([^()=]*\))?=).+=0", re.DOTALL)
# Where expressions are compared: no value of a short one is a coincidence there.
_POINT: Final = Rational(73_939_133, 101_010_101)
_FAR_APART: Final = 1e-6
_BRACKET: Final = re.compile(r"[][(){}]")  # of an interval `[1,2)` too, and of `\\{`
_DEEPEST: Final = 25
# The first of its kind loads parts of sympy; this is done before an answer waits for it.
_WARM_UP: Final = (("(x+1)^2", "x^2+2x+1"), (r"\frac{\pi}{2}", r"\pi\cdot0.5"), ("(1,2)", "[1,2]"), (r"\sqrt{2}", "2"))


def main() -> None:
    """Answer until the standard input ends."""
    parent, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    logging.disable(logging.CRITICAL)
    # Whatever a library prints goes to the standard error; the pipe carries answers only.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for left, right in _WARM_UP:
        decide(left, right)
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _allow_seconds_of_cpu(request["seconds"])
        try:
            equal, worn_out = decide(request["left"], request["right"]), False
        except MemoryError:
            equal, worn_out = None, True  # what is left of the libraries' state is not to be trusted
        answers.write(json.dumps({"id": request["id"], "equal": equal}) + "\n")
        answers.flush()
        if worn_out:
            return


def decide(left: str, right: str) -> bool | None:
    """Return whether two LaTeX expressions are equal; None if one cannot be read, or the comparison fails.

    False also stands for pairs that algebra did not prove equal.

    Raises:
        MemoryError: the process should be replaced.
    """
    try:
        first, second = canonical(left, AnswerType.MATH).structure, canonical(right, AnswerType.MATH).structure
        equal = equal_by_parts(first, second, _equal_parts) if first and second else None
        return _decide_whole(left, right) if equal is None else equal
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parser and the algebra raise whatever hostile input makes them raise
        return None


def _equal_parts(left: str, right: str) -> bool | None:
    equal = equal_by_keys(left, right)
    return decide(left, right) if equal is None else equal


def _decide_whole(left: str, right: str) -> bool | None:
    first, second = _read(left), _read(right)
    if first is None or second is None:
        return None
    if _only_one_is_equation_to_zero(left, right) or _differ_at_a_point(first, second):
        return False
    return _equal(first, second) or (_is_relation(first, second) and _equal(second, first))


def _differ_at_a_point(first: Any, second: Any) -> bool:
    """Whether two expressions have clearly different values at one point, which is quicker to see than to disprove."""
    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return False
    symbols = first.free_symbols
    if symbols != second.free_symbols:
        return False
    point = {symbol: _POINT**power for power, symbol in enumerate(sorted(symbols, key=str), 1)}
    values = [expression.evalf(n=15, subs=point) for expression in (first, second)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    # As real and imaginary parts in sympy's own numbers, which do not overflow.
    left, right = (value.as_real_imag() for value in values)
    size = max(1e-3, *map(abs, left), *map(abs, right))
    return any(abs(one - other) > _FAR_APART * size for one, other in zip(left, right, strict=True))


def _only_one_is_equation_to_zero(left: str, right: str) -> bool:
    """Whether `verify` may take an equation for the 0 at its right."""
    return (_EQUATION_TO_ZERO.fullmatch(left) is None) is not (_EQUATION_TO_ZERO.fullmatch(right) is None)


@lru_cache(maxsize=256)
def _read(latex: str) -> Any | None:  # sympy has no types
    """Return the expression as sympy understands it, or None."""
    if not _may_be_read(latex):
        return None
    # Its own limit of time is a signal that long integer arithmetic does not notice; the pool keeps the time.
    found = parse(f"${latex}$", [LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True)
    expression = next((each for each in found if not isinstance(each, str)), None)
    return expression if expression is None else _exact(expression)


def _exact(expression: Any) -> Any:
    """Return an expression with its decimals as the fractions that they are: 10.8 + 8.1 is 18.9."""
    if not isinstance(expression, Expr):
        return expression
    written = {number: str(number) for number in expression.atoms(Float)}
    return expression.xreplace({number: Rational(digits) for number, digits in written.items() if "e" not in digits})


def _may_be_read(latex: str) -> bool:
    """Whether there is hope: the parser takes seconds to give up, and for deep nesting more time than there is."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(latex):
        depth += 1 if bracket in "([{" else -1
        if depth < 0:
            return False
        deepest = max(deepest, depth)
    return depth == 0 and deepest <= _DEEPEST and latex.isascii() and latex.isprintable()


def _equal(gold: Any, answer: Any) -> bool:
    return bool(verify(gold, answer, float_rounding=_FLOAT_PLACES, timeout_seconds=None, raise_on_error=True))


def _is_relation(*expressions: Any) -> bool:
    """Whether `verify` may say one thing for (a, b) and another for (b, a): `1 < x < 2` and `(1, 2)`."""
    return any(isinstance(expression, Relational | And | Set) for expression in expressions)


def _limit(what: int, amount: int) -> None:
    with suppress(ValueError, OSError):  # the machine's own limit is lower, or it knows no such limit
        resource.setrlimit(what, (amount, amount))


def _allow_seconds_of_cpu(seconds: float) -> None:
    """Let this process end itself if the pool is not there to do it. A process's limit counts from its start."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    soft = ceil(spent.ru_utime + spent.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()

"""Answers made of answers: points, intervals, sets, lists, unions and matrices, taken apart and compared part by part.

`canonical` takes normalised LaTeX apart with `read_structure`, replaces each part by its key and writes the whole with
`latex_of`. `equal_by_parts` compares two; whoever calls it says how parts are compared: `canonical.equal_by_keys` by
their keys, the evaluator's worker by algebra.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Decision = bool | None  # None: not to be told


class Kind(StrEnum):
    """What the parts make."""

    SEQUENCE = "sequence"  # brackets around parts in order: a point, a vector, an interval
    SET = "set"  # in braces, or the two values of a ±
    LIST = "list"  # parts with commas and nothing around them: a set, or a point whose brackets were left out
    UNION = "union"  # of intervals and sets
    MATRIX = "matrix"


@dataclass(frozen=True, slots=True)
class Structure:
    """An answer made of answers.

    Attributes:
        parts: LaTeX; of a matrix its cells, row by row.
        form: of a sequence its two brackets, of a matrix its columns; else empty.
    """

    kind: Kind
    parts: tuple[str, ...]
    form: str = ""


_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPENING = frozenset(("(", "[", "{", r"\{", r"\langle", r"\begin"))
_CLOSING = frozenset((")", "]", "}", r"\}", r"\rangle", r"\end"))
_BRACKETS = {"(": "(", "[": "[", r"\langle": "(", ")": ")", "]": "]", r"\rangle": ")"}
_JOINING_WORDS = re.compile(r",?\\text\{(?:and|or)\}|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])")
_NAME = r"[a-zA-Z](?:_(?:\w|\{\w{1,8}\}))?"
_NAMED = re.compile(rf"({_NAME}(?:\([a-zA-Z]\))?|\([a-zA-Z](?:,[a-zA-Z]){{1,3}}\))(?:=|\\in(?![a-zA-Z]))")
_VARIABLE = re.compile(_NAME)
_RELATIONS = {"<": "<", ">": ">", r"\lt": "<", r"\gt": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!="}
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
_BOUND = re.compile(r"\d|^[-+]?\\infty$")
_MATRIX = re.compile(r"\\begin\{(?P<kind>[pbB]?matrix|smallmatrix|array)\}(.*)\\end\{(?P=kind)\}", re.DOTALL)
_COLUMNS = re.compile(r"\{[lcr|]*\}")
_COMMAS = frozenset((",", ";"))
_MEANT_AS_TWO = (r"\pm", r"\mp")
_MOST_PARTS_IN_ANY_ORDER = 24  # finding partners takes the square of it
_NAMES_OF_SETS = {
    r"\mathbb{R}": Structure(Kind.SEQUENCE, (r"-\infty", r"\infty"), "()"),
    r"\mathbb R": Structure(Kind.SEQUENCE, (r"-\infty", r"\infty"), "()"),
    r"\emptyset": Structure(Kind.SET, ()),
    r"\varnothing": Structure(Kind.SET, ()),
}


def read_structure(expression: str) -> Structure | None:
    """Return an expression's parts, or None if it is one piece. Never raises; time is linear.

    A name in front does not count: `x\\in(1,2)`, `x=1,x=2`. An inequality that bounds one variable is an interval,
    `a\\pm b` a set of two. What a set holds twice it holds once.

    Args:
        expression: as `normalise_latex` returns it; `;` separates parts as `,` does.
    """
    if "\\text" in expression or "\\vee" in expression:
        expression = _JOINING_WORDS.sub(r"\\lor ", expression)
    tokens = _tokens(expression)
    signs = _outer_signs(tokens)
    if signs is None:  # brackets that do not fit
        return None
    if r"\lor" in signs:
        return _alternatives(_split(tokens, r"\lor") or ())
    if not _COMMAS.isdisjoint(signs):
        listed = _split(tokens, *_COMMAS) or ()
        values = _unnamed(listed)
        return _list(values, Kind.LIST if values == listed else Kind.SET)
    if "=" in signs or r"\in" in signs:
        (expression,) = _unnamed((expression,)) or ("",)
        tokens = _tokens(expression)
    if expression in _NAMES_OF_SETS:
        return _NAMES_OF_SETS[expression]
    return _union(tokens) or _enclosed(tokens) or _matrix(expression) or _interval(tokens) or _both_signs(tokens)


def latex_of(structure: Structure) -> str:
    """Return a structure as LaTeX that `read_structure` takes apart alike; a set's parts in order."""
    match structure.kind:
        case Kind.SEQUENCE:
            return structure.form[0] + ",".join(structure.parts) + structure.form[1]
        case Kind.SET:
            return rf"\{{{','.join(sorted(structure.parts))}\}}" if structure.parts else r"\emptyset"
        case Kind.LIST:
            return ", ".join(structure.parts)  # with a space, so that 3, 400 is no number
        case Kind.UNION:
            return r"\cup".join(sorted(structure.parts))
        case Kind.MATRIX:
            columns = int(structure.form)
            rows = (structure.parts[start : start + columns] for start in range(0, len(structure.parts), columns))
            return r"\begin{pmatrix}" + r"\\".join("&".join(row) for row in rows) + r"\end{pmatrix}"


def equal_by_parts(left: Structure, right: Structure, equal: Callable[[str, str], Decision]) -> Decision:
    """Return whether two structures are equal.

    Sets and unions have no order, and lists have none among themselves. A list also equals the sequence in round
    brackets of the same parts in the same order: the point that it is with its brackets left out.

    Args:
        equal: compares two parts; called at most `len(left.parts) * len(right.parts)` times.
    """
    kinds = {left.kind, right.kind}
    if kinds in ({Kind.SEQUENCE}, {Kind.MATRIX}):
        return _equal_in_order(left.parts, right.parts, equal) if left.form == right.form else False
    if kinds == {Kind.SEQUENCE, Kind.LIST}:
        brackets = left.form + right.form
        return _equal_in_order(left.parts, right.parts, equal) if brackets == "()" else False
    if kinds == {Kind.SET, Kind.LIST}:
        return _equal_in_any_order(_once(left.parts), _once(right.parts), equal)
    if Kind.UNION in kinds:  # there may be many ways to write it, so that only algebra tells it from others
        return (len(kinds) == 1 and _equal_in_any_order(left.parts, right.parts, equal)) or None
    return _equal_in_any_order(left.parts, right.parts, equal) if len(kinds) == 1 else False


def _equal_in_order(left: tuple[str, ...], right: tuple[str, ...], equal: Callable[[str, str], Decision]) -> Decision:
    if len(left) != len(right):
        return False
    all_equal: Decision = True
    for first, second in zip(left, right, strict=True):
        match equal(first, second):
            case False:
                return False
            case None:
                all_equal = None
    return all_equal


def _equal_in_any_order(
    left: tuple[str, ...], right: tuple[str, ...], equal: Callable[[str, str], Decision]
) -> Decision:
    if len(left) != len(right):
        return False
    if len(left) > _MOST_PARTS_IN_ANY_ORDER:
        return True if sorted(left) == sorted(right) else None
    left_over, unpaired = [], list(right)
    for part in left:
        partner = next((other for other in unpaired if equal(part, other)), None)
        if partner is None:
            left_over.append(part)
        else:
            unpaired.remove(partner)
    if not left_over:
        return True
    may_match = [[equal(part, other) is None for other in unpaired] for part in left_over]
    is_open = all(map(any, may_match)) and all(map(any, zip(*may_match, strict=True)))
    return None if is_open else False


def _once(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parts))


def _tokens(expression: str) -> list[str]:
    return _TOKEN.findall(expression)


def _split(tokens: list[str], *separators: str) -> tuple[str, ...] | None:
    """Return what stands between separators outside brackets; None if brackets do not fit."""
    parts: list[str] = []
    start = depth = 0
    for position, token in enumerate(tokens):
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and token in separators:
            parts.append("".join(tokens[start:position]).strip())
            start = position + 1
    parts.append("".join(tokens[start:]).strip())
    return None if depth else tuple(parts)


def _outer_signs(tokens: list[str]) -> set[str] | None:
    """Return the tokens outside brackets; None if brackets do not fit."""
    depth = 0
    signs: set[str] = set()
    for token in tokens:
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0:
            signs.add(token)
    return None if depth else signs


def _unnamed(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the name that parts have in common: `x=1,x=2`, `x=1,2`. Empty if there are equations that mean more."""
    matches = [_NAMED.match(part) for part in parts]
    names = {match.group(1) for match in matches if match}
    if len(names) > 1:
        return ()
    bare = tuple(part[match.end() :].strip() if match else part for part, match in zip(parts, matches, strict=True))
    return () if any("=" in part or not part for part in bare) else bare


def _alternatives(parts: tuple[str, ...]) -> Structure | None:
    """Read `A or B`: inequalities make a union, anything else a set."""
    intervals = [_interval(_tokens(part)) for part in parts]
    if any(intervals):
        found = tuple(latex_of(interval) for interval in intervals if interval and interval.kind is Kind.SEQUENCE)
        return Structure(Kind.UNION, found) if len(found) == len(parts) else None
    listed = [each for part in parts for each in _split(_tokens(part), *_COMMAS) or ()]
    return _list(_unnamed(tuple(each for each in listed if each)), Kind.SET)


def _list(parts: tuple[str, ...], kind: Kind) -> Structure | None:
    """Return parts as a set or list; one with a ± stands for two and makes a set of them all."""
    each: list[str] = []
    for part in parts:
        tokens = _tokens(part)
        if not part or not _RELATIONS.keys().isdisjoint(tokens):  # whether all of them hold or one, nobody says
            return None
        both = _both_signs(tokens)
        each.extend(both.parts if both else (part,))
        kind = Kind.SET if both else kind
    if not each:
        return None
    return Structure(kind, _once(tuple(each)) if kind is Kind.SET else tuple(each))


def _union(tokens: list[str]) -> Structure | None:
    parts = _split(tokens, r"\cup") or () if r"\cup" in tokens else ()
    return Structure(Kind.UNION, parts) if len(parts) > 1 and all(parts) else None


def _enclosed(tokens: list[str]) -> Structure | None:
    """Read what one pair of brackets encloses."""
    if len(tokens) < 2 or tokens[0] not in _OPENING:
        return None
    opening, closing, inner = tokens[0], tokens[-1], tokens[1:-1]
    parts = _split(inner, *_COMMAS)
    if parts is None:
        return None
    if (opening, closing) in ((r"\{", r"\}"), ("{", "}")):
        if not inner:
            return Structure(Kind.SET, ()) if opening == r"\{" else None
        if not {r"\mid", "|", ":", "="}.isdisjoint(inner):  # those that …
            return None
        return _list(parts, Kind.SET)
    if opening not in _BRACKETS or closing not in _BRACKETS:
        return None
    if len(parts) == 1:
        return _union(inner) if opening == "(" else None  # brackets that only hold it together
    if not all(parts) or not {"=", *_MEANT_AS_TWO}.isdisjoint(inner):
        return None
    return Structure(Kind.SEQUENCE, parts, _BRACKETS[opening] + _BRACKETS[closing])


def _matrix(expression: str) -> Structure | None:
    match = _MATRIX.fullmatch(expression.strip("()[]")) if r"\begin" in expression else None
    if match is None or r"\begin" in match.group(2):
        return None
    body = match.group(2)
    if match.group("kind") == "array":
        body = _COLUMNS.sub("", body, count=1)
    rows = _split(_tokens(body), r"\\") or ("",)
    table = [_split(_tokens(row), "&") or () for row in (rows if rows[-1] else rows[:-1])]
    if not table or len({len(row) for row in table}) != 1 or not all(map(all, table)):
        return None
    return Structure(Kind.MATRIX, tuple(cell for row in table for cell in row), str(len(table[0])))


def _interval(tokens: list[str]) -> Structure | None:
    """Read an inequality that bounds one variable: `x>5`, `1<x\\le2`, `x\\ne3`."""
    signs = [_RELATIONS[token] for token in tokens if token in _RELATIONS]
    sides = _split(tokens, *_RELATIONS) if 0 < len(signs) < 3 else None
    if sides is None or len(sides) != len(signs) + 1:
        return None
    if (len(sides) == 2 and _BOUND.search(sides[0])) or (len(sides) == 3 and signs[0] in (">", ">=")):
        sides, signs = sides[::-1], [_TURNED[sign] for sign in reversed(signs)]
    variable, *bounds = sides if len(sides) == 2 else (sides[1], sides[0], sides[2])
    if not _VARIABLE.fullmatch(variable) or not all(map(_BOUND.search, bounds)):
        return None
    match bounds, signs:
        case [bound], ["!="]:
            return Structure(Kind.UNION, (rf"(-\infty,{bound})", rf"({bound},\infty)"))
        case [bound], [">" | ">=" as sign]:
            return Structure(Kind.SEQUENCE, (bound, r"\infty"), "[)" if sign == ">=" else "()")
        case [bound], ["<" | "<=" as sign]:
            return Structure(Kind.SEQUENCE, (r"-\infty", bound), "(]" if sign == "<=" else "()")
        case [low, high], ["<" | "<=" as first, "<" | "<=" as second]:
            brackets = ("[" if first == "<=" else "(") + ("]" if second == "<=" else ")")
            return Structure(Kind.SEQUENCE, (low, high), brackets)
    return None


def _both_signs(tokens: list[str]) -> Structure | None:
    """Read `a\\pm b`: the upper signs are one value, the lower ones the other."""
    if tokens.count(r"\pm") != 1 or "," in tokens:
        return None
    values = []
    for signs in ({r"\pm": "+", r"\mp": "-"}, {r"\pm": "-", r"\mp": "+"}):
        value = "".join(signs.get(token, token) for token in tokens)
        values.append(value.replace("+ ", "+").replace("- ", "-").removeprefix("+"))
    return Structure(Kind.SET, tuple(values))

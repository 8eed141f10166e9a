"""LaTeX in one spelling: layout, units and markup removed, so that equal strings are frequent and cheap to find."""

import re

from dynasor_serve.certaindex.answers.plain_text import spell_out

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s+|\*\*|[<>!]=|[^\s\\]", re.DOTALL)
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathsf|mbox|rm)\s{0,4}\{([^{}]*)\}")
_TEXT_UNIT = re.compile(r"\\(?:text|textrm|mathrm|mbox|rm)\s{0,4}\{([^{}]{1,60})\}(?:\^(?:\{[23]\}|[23]))?\s{0,8}$")
_RAISED_UNIT = re.compile(r"\^[23]$")
_DEGREES = re.compile(r"\^\\circ ?[CFK]?$")

_DELIMITER_SIZES = r"\left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \limits \displaystyle \textstyle"
_SPACES_AND_SIGNS = r"\quad \qquad \, \; \: \! \( \) \[ \] \$ $ ~ % \%"
_LAYOUT = frozenset(_DELIMITER_SIZES.split()) | frozenset(_SPACES_AND_SIGNS.split()) | {"\\ "}
_SPELLINGS = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\leq": r"\le",
    r"\geq": r"\ge",
    r"\neq": r"\ne",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\ast": r"\cdot",
    "<=": r"\le",
    ">=": r"\ge",
    "!=": r"\ne",
    r"\leqslant": r"\le",
    r"\geqslant": r"\ge",
    r"\lt": "<",
    r"\gt": ">",
    "**": "^",
    "*": r"\cdot",
}
_SCRIPTS = ("^", "_")
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1}
# Words of a sentence: with one of them, text is part of the answer and not its unit.
_SENTENCE = "and or if where when for is are otherwise not no only all any with such that"
# Units that may follow a number without \\text. Single letters may be variables and are not here.
_UNITS = (
    "cm mm km nm kg mg lb lbs oz ft in mi yd ml min mins sec secs hr hrs ms mph kph cents cent dollars dollar usd eur "
    "degrees degree deg radians radian rad meters meter metres metre centimeters centimetres inches inch feet foot "
    "miles mile yards yard hours hour minutes minute seconds second days day weeks week months month years year units "
    "unit square sq cubic percent people students ways points grams gram liters liter litres litre joules volts"
)
_SENTENCE_WORDS = frozenset(_SENTENCE.split())
_UNIT_WORDS = frozenset(_UNITS.split())
_MAGNITUDES = {"thousand": "e3", "million": "e6", "billion": "e9", "trillion": "e12"}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_UNIT_CHARACTERS = 60


def normalise_latex(text: str) -> str:
    """Return the expression in one spelling.

    Without spaces (but between digits, where they mean something), `\\left`, `$`, thin spaces, a closing unit in
    `\\text{}`, percent signs or full stop; `\\dfrac` is `\\frac`, `\\frac12` is `\\frac{1}{2}`, `x^{2}` is `x^2`,
    `*` is `\\cdot`. A percent sign is a unit like others: it is dropped, never taken for a division by 100. What needs
    algebra is left alone. Time is linear in the text; the caller bounds its length.
    """
    spelled = spell_out(text).replace("{,}", ",").strip().rstrip(".,;:")
    if "\\" in spelled:
        spelled = _WORDS.sub(_unwrapped_words, without_text_unit(spelled))
    return _joined(_grouped(_respelled(_TOKEN.findall(spelled))))


def without_unit(expression: str, *, any_word: bool) -> str:
    """Return a normalised expression without the degrees or the plain words that follow it: `12cm` becomes `12`.

    A word of magnitude counts: `5million` becomes `5e6`.

    Args:
        expression: as `normalise_latex` returns it.
        any_word: whether any word is a unit (`12apples`), or only a known one (`12cm`; `12x` may be a product).
    """
    bare = _DEGREES.sub("", expression)
    body = _RAISED_UNIT.sub("", bare)
    head = body.rstrip(_LETTERS + "/. ")
    unit = body[len(head) :].strip("/. ")
    if not unit:  # then what is raised is the number: 2^3
        return bare
    if not head or len(unit) > _MAX_UNIT_CHARACTERS:
        return expression
    for word, exponent in _MAGNITUDES.items():
        if unit.startswith(word):
            return head + exponent
    known = all(word in _UNIT_WORDS for word in unit.lower().replace("/", " ").replace(".", " ").split())
    return head if any_word or known else expression


def without_text_unit(text: str) -> str:
    """Return an expression without the unit written in `\\text{}` at its end. Time is linear."""
    offset = max(0, len(text) - 2 * _MAX_UNIT_CHARACTERS)
    match = _TEXT_UNIT.search(text, offset)
    if match is None:
        return text
    head = text[: match.start()].rstrip("\\,;:!~ ")
    words = match.group(1).lower().split()
    if not (head[-1:].isalnum() or head[-1:] in ("}", ")", "$")) or not head.strip("${ "):
        return text
    if len(words) > 4 or not words or _SENTENCE_WORDS.intersection(words):
        return text
    return head + words[0] if words[0] in _MAGNITUDES else head


def _unwrapped_words(match: re.Match[str]) -> str:
    words = " ".join(match.group(1).split())
    # Letters and numbers stand for themselves; words keep their wrapper, so that "or" is not o times r.
    stands_alone = len(words.strip("()")) <= 1 or words.replace(".", "").replace(",", "").isdigit()
    return words if stands_alone else f"\\text{{{words}}}"


def _respelled(parts: list[str]) -> list[str]:
    """Map variants to one spelling and drop layout; a space survives between digits and in words."""
    kept: list[str] = []
    previous = ""
    in_words = False
    for part in parts:
        if in_words:
            kept.append(" " if part.isspace() else part)
            in_words = part != "}"
        elif part == "." and previous in (r"\left", r"\right"):
            pass  # the invisible delimiter
        elif not part.isspace() and part not in _LAYOUT:
            if previous.isspace() and kept and kept[-1].isdigit() and part.isdigit():
                kept.append(" ")
            kept.append(_SPELLINGS.get(part, part))
            in_words = part == r"\text"
        previous = part
    return kept


def _grouped(parts: list[str]) -> list[str]:
    """Brace the arguments of \\frac, \\sqrt and \\binom; unbrace exponents and indices of one part."""
    grouped: list[str] = []
    wanted = 0  # arguments that the last command still takes
    after: list[int] = []  # per open brace: the arguments wanted once it closes
    position = 0
    while position < len(parts):
        part = parts[position]
        if (
            part in ("^", "_")
            and parts[position + 1 : position + 2] == ["{"]
            and parts[position + 3 : position + 4] == ["}"]
        ):
            grouped.extend((part, parts[position + 2]))
            position += 4
            continue
        if part in _ARGUMENTS:
            wanted = _ARGUMENTS[part]
        elif part == "{":
            after.append(max(0, wanted - 1))
            wanted = 0
        elif part == "}":
            wanted = after.pop() if after else 0
        elif wanted and part == "[" and "]" in parts[position : position + 8]:  # the index of a root
            closed = parts.index("]", position)
            grouped.extend(parts[position:closed])
            position, part = closed, "]"
        elif wanted:
            grouped.extend(("{", part))
            part = "}"
            wanted -= 1
        grouped.append(part)
        position += 1
    return grouped


def _joined(parts: list[str]) -> str:
    """Join parts, with a space where a letter would otherwise lengthen a command."""
    pieces: list[str] = []
    after_command = False
    for part in parts:
        if after_command and part[0].isalpha():
            pieces.append(" ")
        pieces.append(part)
        after_command = len(part) > 1 and part[0] == "\\" and part[1].isalpha()
    return "".join(pieces)

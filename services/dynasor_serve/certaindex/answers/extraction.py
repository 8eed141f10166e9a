"""Where in a sample's text is its answer? The inverse of asking for one.

Called by the tracker for each finished sample; what it returns goes to `canonical`.
"""

import re
from collections import deque
from collections.abc import Iterator

from dynasor_serve.certaindex.answers.answer_type import AnswerType
from dynasor_serve.certaindex.answers.canonical import canonical
from dynasor_serve.certaindex.answers.choices import several_letters
from dynasor_serve.certaindex.answers.code import last_program, normalised_program

MAX_ANSWER_CHARACTERS = 4000
# An answer stands at the end: nothing before is read, however long the text.
_TAIL_CHARACTERS = 16_000
_PLACES_TRIED = 8
# No number that `_NUMBER` finds in running text is longer.
_MAX_NUMBER_CHARACTERS = 200

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SAID = r"\b\**\s{0,4}(?i:(?:is|are|=|:)[\s*:]{0,8}|\n[\s*:]{0,8})"
# "answer is", "Answer:", "#### ". Each starts with letters that it cannot vary, which `re` finds eighty times faster.
_ANNOUNCED = (
    re.compile(r"ns(?<=\b[Aa]ns)(?:wer)?" + _SAID),
    re.compile(r"NS(?<=\bANS)(?:WER)?" + _SAID),
    re.compile(r"####[ \t]{0,8}(?=[^\n]{1,400}+\s{0,8}+\Z)"),  # elsewhere it is a heading
)
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n")
_INLINE_MATH = re.compile(r"\$([^$\n]{1,1000})\$|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])[-−+]?(?:\\[dt]?frac\{[-+]?[\d.,]{1,50}\}\{[\d.,]{1,50}\}|[$€£]?\d[\d,]{0,60}(?:\.\d{1,60})?"
    r"(?:[eE][+-]?\d{1,6}|/\d{1,60}(?:\.\d{1,60})?)?)|(?<![\w.])[-−+]?\.\d{1,60}"
)
_LETTER = r"[\s*_$(\[{]{0,6}(?:\\(?:text|textbf|mathrm|mathbf)\s?\{\s?\(?)?([A-J])(?![A-Za-z'’])"
_FIRST_LETTER = re.compile(r"(?:\s?(?:option|choice|letter))?" + _LETTER, re.IGNORECASE)
_LONE_LETTER = re.compile(r"^[\s*_$(\[{]{0,6}(?:\\(?:text|textbf)\{\(?)?([A-J])[)\]}.:*_$ \t]{0,8}$", re.MULTILINE)
_NAMED_LETTER = re.compile(r"\b(?:[Oo]ption|[Cc]hoice)\s{1,4}" + _LETTER)
_BRACKETED_LETTER = re.compile(r"\(([A-J])\)")
_LEADING_LETTER = re.compile(r"\s{0,8}\**([A-J])[.):]\s")
_ONLY_LETTER = re.compile(r"[(\[]?([a-j])[)\].]?")
_MARKUP = "*_`\"' \t\r\n"


def extract(text: str, answer_type: AnswerType) -> str | None:
    """Return the answer in a sample's text, or None if there is none of this type.

    Reasoning (`<think>…</think>`, or all before `</think>`) is not read; if the text ends in it or right after it,
    a `\\boxed{}` in the reasoning is an answer, and nothing else there is. Then the first of these that holds one:

    1. the last `\\boxed{…}`, braces balanced; unclosed, up to the end;
    2. the last "answer is …", "Answer: …", or a last line `#### …`;
    3. by type: `number` the last number; `choice` a letter alone on a line, "option B", the last "(B)", or a last line
       that starts "B." or "B)"; `math` the whole text if it is one line; `text` the last line that is not empty.

    The answer of type `code` is the last fenced block marked as Python, else the last that is not marked, else all that
    is said if that is a program with a definition; of type `free-text`, where 1 and 2 hold none, all that is said.

    A `number` has a digit: a letter is none. A `choice` is a letter A–J, or several in a box or announced. Only the
    last 16,000 characters are read, in linear time; hostile text costs time in proportion and raises nothing.

    Args:
        text: what the engine generated for one sample, as it came.
        answer_type: what the query asked for.
    """
    said, reasoning = _split_reasoning(text)
    if answer_type is AnswerType.CODE:
        return last_program(said) or _bare_program(said)
    answer = _boxed(said, answer_type)
    if answer is None and reasoning and not said.strip():
        answer = _boxed(reasoning, answer_type)
    if answer is None:
        answer = _announced(said, answer_type) or _fallback(said, answer_type)
    return answer


def extract_announced(text: str, answer_type: AnswerType) -> str | None:
    """Return the answer that a text sets apart, by a box or the words of `extract` (1 and 2); None if there is none.

    Nothing that is said in passing counts, and nothing in reasoning: a half-finished solution that announces its answer
    has come to its end.
    """
    said, _ = _split_reasoning(text)
    if answer_type is AnswerType.CODE:
        return last_program(said)
    return _boxed(said, answer_type) or _announced(said, answer_type)


def extract_in_open_box(text: str, answer_type: AnswerType) -> str | None:
    """Return the answer in a continuation of a prompt that ends in `\\boxed{`: all up to the first unmatched brace."""
    return _of_type(_balanced(text[:MAX_ANSWER_CHARACTERS], 0), answer_type)


def closing_brace(text: str, start: int = 0) -> int | None:
    """Return where the first closing brace after `start` is that no brace after `start` opens; None if there is none.

    Reads the whole text in linear time; the caller bounds its length.
    """
    depth = 0
    for match in _BRACE.finditer(text, start):
        brace = match.group()
        if brace == "{":
            depth += 1
        elif brace == "}":
            if depth == 0:
                return match.start()
            depth -= 1
    return None


def _split_reasoning(text: str) -> tuple[str, str]:
    """Return (what is said, the reasoning before it), the last characters of each."""
    closed = text.rfind("</think>")
    opened = text.rfind("<think>")
    if opened > closed:  # it was cut off while thinking
        return "", text[opened + len("<think>") :][-_TAIL_CHARACTERS:]
    if closed < 0:
        return text[-_TAIL_CHARACTERS:], ""
    start = closed + len("</think>")
    return text[start:][-_TAIL_CHARACTERS:], text[max(0, closed - _TAIL_CHARACTERS) : closed]


def _boxed(text: str, answer_type: AnswerType) -> str | None:
    if "boxed" not in text and "fbox" not in text:
        return None
    starts = [match.end() for match in _BOX.finditer(text)]
    for start in reversed(starts[-_PLACES_TRIED:]):
        content = _balanced(text, start).strip()
        if content:  # "put it in \boxed{}" is no answer
            return _of_type(content, answer_type)
    return None


def _balanced(text: str, start: int) -> str:
    """Return the text from `start` up to the first unmatched closing brace, or to the end."""
    end = closing_brace(text, start)
    return text[start : start + MAX_ANSWER_CHARACTERS] if end is None else text[start:end]


def _of_type(content: str, answer_type: AnswerType) -> str | None:
    """Return what stands in a box if it is an answer of the type."""
    content = content.strip()[:MAX_ANSWER_CHARACTERS]
    if answer_type is AnswerType.NUMBER:
        return content if any(character.isdecimal() for character in content) else None
    if answer_type is AnswerType.CHOICE:
        return _letters(content)
    return content if content and canonical(content, answer_type).key else None


def _announced(text: str, answer_type: AnswerType) -> str | None:
    """Return the last answer that is announced."""
    starts = sorted(match.end() for announced in _ANNOUNCED for match in announced.finditer(text))
    for start in reversed(starts[-_PLACES_TRIED:]):
        rest = text[start : start + MAX_ANSWER_CHARACTERS].lstrip(_MARKUP)
        line = rest.partition("\n")[0].strip(_MARKUP)
        if not line:
            continue
        if answer_type is AnswerType.NUMBER:
            number = _NUMBER.search(line)
            if number:
                return number.group()
        elif answer_type is AnswerType.CHOICE:
            letter = _letters(_SENTENCE_END.split(line, 1)[0]) or _first_letter(line)
            if letter:
                return letter
        elif answer_type is AnswerType.MATH:
            formula = _INLINE_MATH.match(rest)
            sentence = (
                next((part for part in formula.groups() if part), "") if formula else _SENTENCE_END.split(line, 1)[0]
            )
            return _of_type(sentence, answer_type)
        else:
            return _of_type(line, answer_type)
    return None


def _fallback(text: str, answer_type: AnswerType) -> str | None:
    text = text.strip()
    match answer_type:
        case AnswerType.NUMBER:
            return _last_number(text)
        case AnswerType.CHOICE:
            return _letter_in_passing(text)
        case AnswerType.MATH:
            return _of_type(text, answer_type) if text and "\n" not in text and len(text) <= 200 else None
        case AnswerType.TEXT:
            return _of_type(text.rpartition("\n")[2], answer_type)
        case AnswerType.FREE_TEXT:
            return _of_type(text, answer_type)
        case AnswerType.CODE:
            return _bare_program(text)


def _bare_program(text: str) -> str | None:
    """Return a text that is a program as it stands."""
    has_definition = any(line.startswith(("def ", "class ", "async def ")) for line in text.split("\n"))
    return text if has_definition and normalised_program(text) else None


def _letters(text: str) -> str | None:
    """Return the letters of a clause that is nothing but several, else the one that it starts with."""
    letters = several_letters(text)
    return ", ".join(letters) if letters else _first_letter(text)


def _first_letter(text: str) -> str | None:
    """Return the letter that a clause starts with."""
    text = text.strip(_MARKUP)
    if only := _ONLY_LETTER.fullmatch(text):
        return only.group(1).upper()
    match = _FIRST_LETTER.match(text)
    if match is None:
        return None
    letter = match.group(1)
    if not letter.isupper():
        return letter.upper() if text[: match.start(1)].endswith("(") else None
    follows = text[match.end() : match.end() + 2]
    # "A good point", "I think": a word, not a choice.
    if letter in "AI" and follows[:1] == " " and follows[1:].islower() and not text[: match.start(1)].strip():
        return None
    return letter


def _letter_in_passing(text: str) -> str | None:
    if only := _ONLY_LETTER.fullmatch(text):
        return only.group(1).upper()
    last_line = text.rpartition("\n")[2]
    leading = _LEADING_LETTER.match(last_line)
    return (
        _last(_LONE_LETTER.finditer(text))
        or _last(_NAMED_LETTER.finditer(text))
        or _last(_BRACKETED_LETTER.finditer(text))
        or (leading.group(1) if leading else None)
    )


def _last_number(text: str) -> str | None:
    """Return the last number; it is usually near the end, so that is searched first."""
    near = max(0, len(text) - 4 * _MAX_NUMBER_CHARACTERS)
    match = deque(_NUMBER.finditer(text, near), maxlen=1)
    # One that starts further in than any number is long cannot be the rest of a longer one.
    if near == 0 or (match and match[0].start() > near + _MAX_NUMBER_CHARACTERS):
        return match[0].group() if match else None
    return _last(_NUMBER.finditer(text))


def _last(matches: Iterator[re.Match[str]]) -> str | None:
    found = deque(matches, maxlen=1)
    return found[0].group(found[0].re.groups) if found else None

"""Several letters as one answer: `A, C`, `(B) and (D)`, `ACD`."""

import re

MAX_CHARACTERS = 120

_SEVERAL = re.compile(r"[A-J](?:[,;/&+ ]{0,4}(?:and )?[A-J]){1,9}")
_MARKUP = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s?(?=\{)|[*_$\"'`()\[\]{}.:]")
_LETTER = re.compile(r"[A-J](?![a-z])")


def several_letters(text: str) -> tuple[str, ...] | None:
    """Return the letters in order, if the text is two or more different letters A–J and nothing else.

    Without anything between them they must rise: `ACD` is an answer, `BAD` a word.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    bare = " ".join(_MARKUP.sub(" ", text).split())
    if not _SEVERAL.fullmatch(bare):
        return None
    letters = tuple(_LETTER.findall(bare))
    is_run = len(bare) == len(letters)
    if len(set(letters)) < len(letters) or (is_run and list(letters) != sorted(letters)):
        return None
    return tuple(sorted(letters))

"""Unicode that stands for mathematics, spelled as LaTeX; and the folding of free text."""

import unicodedata
from hashlib import blake2b

MAX_FOLDED_CHARACTERS = 10_000

_GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma tau phi omega"
_GREEK = dict(zip("αβγδεθλμπρστφω", _GREEK_NAMES.split(), strict=True))
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒–—﹣－", "-"),
        **dict.fromkeys("×✕⨯", r"\times "),
        **dict.fromkeys("·⋅∙", r"\cdot "),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("°º˚", r"^\circ "),
        **dict.fromkeys("’‘′", "'"),
        **dict.fromkeys("“”″", '"'),
        # Invisible: zero-width, joiners, marks of direction, byte order, soft hyphen.
        **dict.fromkeys("\u200b\u200c\u200d\u2060\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff\u00ad", None),
        "∞": r"\infty ",
        "√": r"\sqrt ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        **{letter: rf"\{name} " for letter, name in _GREEK.items()},
        "→": r"\to ",
        "%": "%",
        "€": "",
        "£": "",
        "¥": "",
        "₹": "",
    }
)


def spell_out(text: str) -> str:
    """Return mathematics written in Unicode as LaTeX and ASCII digits.

    Other scripts' digits become ASCII, ² becomes `^{2}`, ½ becomes ` 1/2` (so 1½ stays a mixed number), π becomes
    `\\pi`; signs of currency and invisible characters vanish.
    """
    if text.isascii():
        return text
    pieces: list[str] = []
    raised = ""  # the exponent being read
    for character in text.translate(_SYMBOLS):
        if character.isascii():
            spelled = character
        else:
            kind, _, meaning = unicodedata.decomposition(character).partition(" ")
            if kind == "<super>" and len(meaning) == 4:
                raised += unicodedata.normalize("NFKC", character).replace("−", "-")
                continue
            if kind == "<fraction>":
                spelled = " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
            elif character.isdecimal():
                spelled = str(unicodedata.decimal(character))
            else:
                spelled = unicodedata.normalize("NFKC", character)
        if raised:
            pieces.append(f"^{{{raised}}}")
            raised = ""
        pieces.append(spelled)
    if raised:
        pieces.append(f"^{{{raised}}}")
    return "".join(pieces)


def fold_text(text: str) -> str:
    """Return free text with case, spaces, typographic variants, quotes around it and closing punctuation folded.

    Of a text over 10,000 characters only case and spaces are folded: one ligature can grow eighteenfold.
    """
    if not text.isascii() and len(text) <= MAX_FOLDED_CHARACTERS:
        text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS)
    folded = text.casefold()
    return " ".join(folded.split()).strip("\"'`*_ ").rstrip(".!?,;: ")


def bounded_key(text: str, limit: int) -> str:
    """Return the text, or for one longer than `limit` characters a digest of it that is no longer."""
    if len(text) <= limit:
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{text[: limit - 34]}… {digest}"

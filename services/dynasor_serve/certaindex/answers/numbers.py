"""Numbers, read exactly: equal values have equal keys, whatever the notation, and no float is involved."""

import re
from fractions import Fraction

MAX_NUMBER_CHARACTERS = 1000
# Beyond this a decimal keeps its exponent: 1e999999 is never multiplied out.
MAX_EXPANDED_EXPONENT = 400

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d{1,9})?"
_NUMBER_START = re.compile(r"[-+]*(?:[\d.,]|\\frac)")
_PLAIN_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
_DECIMAL_PARTS = re.compile(r"(\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,9}))?", re.ASCII)
_FRACTION = re.compile(r"(?:\\frac\{([^{}]+)\}\{([^{}]+)\}|([^/{}]+)/([^/{}]+))")
_SPACED_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?", re.ASCII)
_MIXED = re.compile(r"(\d{1,50})(?:\\frac\{(\d{1,50})\}\{(\d{1,50})\}| (\d{1,50})/(\d{1,50}))", re.ASCII)
_POWER_OF_TEN = re.compile(
    rf"(?:(?=[.\d])({_DECIMAL})(?:\\times|\\cdot|x|\*) ?)?10\^(?:\{{([+-]?\d{{1,9}})\}}|(\d))", re.ASCII
)


def number_key(text: str) -> str | None:
    """Return the canonical key of a plain number, or None if the text is something else.

    Reads integers, decimals, thousands (`1,000`), exponents (`1e3`, `3\\times10^{8}`), fractions (`\\frac{1}{2}`,
    `1/2`) and mixed numbers (`1\\frac{1}{2}`, `1 1/2`), each with a sign. The key is `p` or `p/q` in lowest terms;
    a decimal whose exponent is beyond ±400 keeps it (`1e999999`). Time is linear, and the text may have
    1,000 characters.

    Args:
        text: without spaces, but for those between digits (`1 1/2`, `1 000`).
    """
    if _PLAIN_INTEGER.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_CHARACTERS or not _NUMBER_START.match(text):
        return None
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    negative, magnitude = _sign(text)
    value = _decimal(magnitude) or _power_of_ten(magnitude)
    if value is not None:
        return _decimal_key(negative, *value)
    fraction = _fraction(magnitude)
    if fraction is None:
        return None
    return str(-fraction if negative else fraction)


def _sign(text: str) -> tuple[bool, str]:
    if text[:1] in ("-", "+"):
        return text[0] == "-", text[1:]
    return False, text


def _decimal(text: str) -> tuple[int, int] | None:
    """Return (mantissa, exponent of ten) of an unsigned decimal."""
    match = _DECIMAL_PARTS.fullmatch(text)
    if match is None:
        return None
    whole, decimals, exponent = match.group(1).replace(",", ""), match.group(2) or "", match.group(3) or "0"
    digits = whole + decimals
    if not digits:
        return None
    return int(digits), int(exponent) - len(decimals)


def _power_of_ten(text: str) -> tuple[int, int] | None:
    match = _POWER_OF_TEN.fullmatch(text)
    if match is None:
        return None
    factor = _decimal(match.group(1)) if match.group(1) else (1, 0)
    if factor is None:
        return None
    mantissa, exponent = factor
    return mantissa, exponent + int(match.group(2) or match.group(3))


def _decimal_key(negative: bool, mantissa: int, exponent: int) -> str:
    if mantissa == 0:
        return "0"
    digits = str(mantissa).rstrip("0")
    exponent += len(str(mantissa)) - len(digits)
    sign = "-" if negative else ""
    if exponent > MAX_EXPANDED_EXPONENT or exponent < -MAX_EXPANDED_EXPONENT:
        return f"{sign}{digits}e{exponent}"
    if exponent >= 0:
        return f"{sign}{digits}{'0' * exponent}"
    return sign + str(Fraction(int(digits), 10**-exponent))


def _fraction(text: str) -> Fraction | None:
    if mixed := _MIXED.fullmatch(text):
        whole, numerator, denominator = (int(part) for part in mixed.groups() if part)
        return whole + Fraction(numerator, denominator) if 0 < numerator < denominator else None
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    above, below = (_exact(part) for part in match.groups() if part)
    return above / below if above is not None and below else None


def _exact(text: str) -> Fraction | None:
    """Return a signed decimal as a fraction, or None if it is no decimal or too large to write out."""
    negative, magnitude = _sign(text)
    value = _decimal(magnitude)
    if value is None or abs(value[1]) > MAX_EXPANDED_EXPONENT:
        return None
    mantissa, exponent = value
    fraction = Fraction(mantissa * 10 ** max(exponent, 0), 10 ** max(-exponent, 0))
    return -fraction if negative else fraction

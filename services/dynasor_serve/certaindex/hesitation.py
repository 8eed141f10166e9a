"""Does a model take back what it has just said? A trial answer that is doubted at once is no evidence of certainty."""

import re

# Whole words: the research code's `no` and `hold` also match inside "none", "denominator" and "threshold".
_HESITATION = re.compile(r"\b(?:wait|h+m+|hold\s+on|but|however|okay)\b|\bno(?=\s*[,!.?…—])", re.IGNORECASE)


def hesitates(text: str) -> bool:
    """Whether a text hesitates: "Wait", "hmm", "but" and the like, as whole words."""
    return _HESITATION.search(text) is not None

"""Does a model doubt what it has just said? An answer that is doubted at once is no evidence of certainty."""

import re

# The research code's list is `wait hold but okay no hmm`, matched anywhere: inside "none", "nonzero", "denominator",
# "distribution" and "threshold" too, so that valid answers never count. Here they are whole words, read where a model
# goes on after its answer, and two of them count only as what they are there: `hold` in "hold on" (conditions hold),
# `no` where it is said on its own ("No, that …"; "there is no other solution" confirms). `okay` opens a new thought, so
# the model has not closed; `however` is another `but`.
_HESITATION = re.compile(r"\b(?:(?:wait|hmm+|hold\s+on|but|however|okay)\b|no(?=\s?[,.!?…—]))", re.IGNORECASE)


def hesitates(text: str) -> bool:
    """Whether a text hesitates: "Wait", "hmm", "but" and their like, as whole words in any case.

    Args:
        text: what a model writes around or after an answer, without the answer itself, which may be "no".

    Source: arXiv 2412.20993v2, section 2.1 (answers that the model doubts are left out of the consistency test).
    """
    return _HESITATION.search(text) is not None

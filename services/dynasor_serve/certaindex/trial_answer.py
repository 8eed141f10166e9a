"""What a probe's completion says: the chain's answer so far, and whether it is meant."""

from dataclasses import dataclass

from dynasor_serve.certaindex.answers import AnswerType, canonical, closing_brace, extract, extract_in_open_box
from dynasor_serve.certaindex.hesitation import hesitates

# A probe asks for a few dozen tokens; of what is longer, only the end is read where the answer must be.
_READ_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class TrialAnswer:
    """The reply to a probe.

    Attributes:
        answer: as given; None where there is no usable one.
        hesitant: whether the text around the answer hesitates.
    """

    answer: str | None
    hesitant: bool


def read_trial(text: str, answer_type: AnswerType, *, opened_box: bool) -> TrialAnswer:
    """Return the answer that a probe's completion gives. Bounded work, whatever the text; never raises.

    No answer are: an empty one; one in a box that the probe opened and the completion does not close, because the cut
    cannot be told from the end, and long answers that are cut alike would agree; a bare letter A–J where a number or an
    expression is asked for, which comes from the probe's format and not from the question.

    Args:
        text: what the engine generated for the probe, as it came; without a stop string that swallows the `}`.
        answer_type: what the query asked for.
        opened_box: whether the probe ended inside `\\boxed{`, so that the completion starts with the answer.
    """
    if opened_box:
        read = text[:_READ_CHARACTERS]
        closed = closing_brace(read)
        answer = None if closed is None else extract_in_open_box(read, answer_type)
        around = read[closed or 0 :]
    else:
        read = text[-_READ_CHARACTERS:]
        answer = extract(read, answer_type)
        around = read if answer is None else " ".join(read.rpartition(answer)[::2])
    if answer is not None and answer_type is AnswerType.MATH and _is_choice(answer):
        answer = None
    return TrialAnswer(answer, hesitates(around))


def _is_choice(answer: str) -> bool:
    """Whether it is a letter A–J, maybe in brackets or markup. Small ones are names and numbers: e, i, a."""
    letter = canonical(answer, AnswerType.CHOICE).key
    return len(letter) == 1 and letter in "ABCDEFGHIJ" and letter in answer

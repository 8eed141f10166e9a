"""What a probe's completion says: the chain's answer so far, and whether it is meant."""

from dataclasses import dataclass

from dynasor_serve.certaindex.answers import AnswerType, canonical, extract, extract_in_open_box
from dynasor_serve.certaindex.hesitation import hesitates

_READ_CHARACTERS = 16_000


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
    """Return the answer that a probe's completion gives.

    Args:
        text: what the engine generated for the probe, as it came.
        answer_type: what the query asked for.
        opened_box: whether the probe ended inside `\\boxed{`, so that the completion starts with the answer.
    """
    if opened_box:
        text = text[:_READ_CHARACTERS]
        answer = extract_in_open_box(text, answer_type)
    else:
        answer = extract(text, answer_type)
        text = text[-_READ_CHARACTERS:]
    around = text if answer is None else text.replace(answer, " ", 1)
    if answer is not None and answer_type is AnswerType.MATH and _is_choice(answer):
        answer = None
    return TrialAnswer(answer, hesitates(around))


def _is_choice(answer: str) -> bool:
    letter = canonical(answer, AnswerType.CHOICE).key
    return len(letter) == 1 and letter in "ABCDEFGHIJ" and letter in answer

"""What the Dynasor research code gets wrong (github hao-ai-lab/Dynasor, read and run) is right here.

Each test names the function it answers to.
"""

import pytest

from dynasor_serve.certaindex.answers import AnswerType, canonical
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.hesitation import hesitates
from dynasor_serve.certaindex.rules import parse_chain_rule
from dynasor_serve.certaindex.trial_answer import read_trial
from dynasor_serve.certaindex.trials import Trials

PRESETS = {"mild": (8, 64), "low": (5, 64), "mid": (3, 64), "high": (2, 64), "crazy": (2, 32)}  # window, interval


def stops(window: int, interval: int, *replies: str, answer_type: AnswerType = AnswerType.MATH) -> bool:
    """Whether the preset stops a chain that has replied so to its probes, all the way from the text of the replies."""
    clusters = AnswerClusters.empty(answer_type)
    hesitant: list[bool] = []
    for reply in replies:
        trial = read_trial(reply, answer_type, opened_box=True)
        clusters = clusters.add(trial.answer)
        hesitant.append(trial.hesitant)
    trials = Trials(
        labels=clusters.labels,
        positions=tuple(range(interval, interval * (len(replies) + 1), interval)),
        confidences=(None,) * len(replies),
        hesitant=tuple(hesitant),
        undecided=clusters.undecided,
    )
    return parse_chain_rule(f"consensus-window:window={window},interval={interval}").verdict(trials).stops


@pytest.mark.parametrize("preset", PRESETS)
def test_should_early_exit_is_true_whatever_the_answers_are(preset: str) -> None:
    """`core/entropy.py`: after its checks it falls through to `return True`."""
    window, interval = PRESETS[preset]
    differing = [f"{number}}} \\]" for number in range(window)]
    assert not stops(window, interval, *differing)
    assert not stops(window, interval, differing[0], *[differing[1]] * (window - 1)), "one of them differs"
    assert stops(window, interval, *[differing[0]] * window), "and equal ones stop"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("reply", ["} \\]", "", "   } \\]", r"\text{}} \]"])
def test_should_early_exit_is_true_on_empty_answers(preset: str, reply: str) -> None:
    window, interval = PRESETS[preset]
    assert not stops(window, interval, *[reply] * (window + 1))


@pytest.mark.parametrize(
    "word",
    ["none", "nonzero", "knots", "north", "now", "denominator", "distribution", "threshold", "button", "household"],
)
def test_is_certain_answer_finds_hesitation_inside_other_words(word: str) -> None:
    """`core/cot.py`: `any(word in reply.lower() for word in uncertain_words)`."""
    assert not hesitates(f"}} \\]\n\nIts {word} is known.")
    assert stops(2, 64, *[f"5}} \\]\n\nIts {word} is known."] * 2)


def test_is_certain_answer_takes_the_answer_itself_for_hesitation() -> None:
    assert stops(2, 64, *[r"\text{no solution}} \]"] * 2)
    assert stops(2, 64, *["no} \\]"] * 2, answer_type=AnswerType.TEXT)


def test_hesitation_still_counts() -> None:
    assert not stops(2, 64, "5} \\]", "5} \\]\n\nWait, no")


@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.MATH])
@pytest.mark.parametrize("reply", ["A}", "C} \\]", r"\text{(B)}} \]", "(D)}"])
def test_letters_are_answers_to_questions_without_choices(reply: str, answer_type: AnswerType) -> None:
    """About a fifth of its false stops: the letters come from the probe's format, and agree with one another."""
    assert not stops(2, 64, reply, reply, answer_type=answer_type)
    assert stops(2, 64, reply, reply, answer_type=AnswerType.CHOICE)


@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.MATH])
@pytest.mark.parametrize(("left", "right"), [("5", "500"), ("5", r"500\%"), ("0.05", "5"), ("1/2", "50")])
def test_math_equal_holds_5_for_500(left: str, right: str, answer_type: AnswerType) -> None:
    """`core/evaluator.py`: `include_percentage` takes x, x/100 and 100x for equal."""
    assert canonical(left, answer_type).key != canonical(right, answer_type).key
    clusters = AnswerClusters.empty(answer_type).add(left).add(right)
    assert clusters.labels == (0, 1)
    assert clusters.questions() == (), "the evaluator is not even asked"
    assert not stops(2, 64, f"{left}}}", f"{right}}}", answer_type=answer_type)


def test_item_entropy_counts_spellings_as_answers() -> None:
    """`core/entropy.py`: three spellings of one have 1.585 bits."""
    clusters = AnswerClusters.empty(AnswerType.MATH)
    for spelling in ("1", "1.0", r"\frac{2}{2}"):
        clusters = clusters.add(spelling)
    assert clusters.labels == (0, 0, 0)
    assert clusters.votes(cap=3).certaindex == 1.0


def test_math_equal_holds_delimiter_sizes_for_a_difference() -> None:
    left, right = r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"
    assert canonical(left, AnswerType.MATH).key == canonical(right, AnswerType.MATH).key
    assert stops(2, 64, f"{left}}} \\]", f"{right}}} \\]")


def test_a_reply_that_is_cut_off_is_no_answer() -> None:
    """What `obtain_answer` gets right: a box that is never closed holds none, so numbers cut alike do not agree."""
    assert not stops(2, 64, *["12345678901234567890"] * 3)

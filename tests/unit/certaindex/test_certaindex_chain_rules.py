"""Each rule over one chain against verdicts worked out by hand, and against what it must never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.certaindex.rules import ChainRule, parse_chain_rule
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind
from unit.certaindex.chains import chain

EVERY_RULE = (
    "even",
    "consensus-window",
    "consensus-window:window=2",
    "consensus-window:window=3,threshold=0.6",
    "trial-confidence",
    "trial-confidence:threshold=0.01,repeats=2",
    "consensus-window:window=2 & trial-confidence:threshold=0.5",
    "default",
    "default:chain_risk=0.5",
)
SURE = 1.0


def ask(rule: str, answers: str, confidences: tuple[float | None, ...] | None = None, undecided: str = "") -> Verdict:
    given_confidences = (SURE,) * len(answers) if confidences is None else confidences
    return parse_chain_rule(rule).verdict(chain(answers, confidences=given_confidences, undecided=undecided))


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        ("consensus-window:window=3", "aa", False),
        ("consensus-window:window=3", "aaa", True),
        ("consensus-window:window=3", "baaa", True),
        ("consensus-window:window=3", "aab", False),
        ("consensus-window:window=3", "aba", False),
        ("consensus-window:window=3", "aaa-", False),  # the last answer is empty
        ("consensus-window:window=3", "a-aa", False),
        ("consensus-window:window=3", "aaaA", False),  # the last one hesitates
        ("consensus-window:window=3", "aAaa", False),
        ("consensus-window", "aaaaaaa", False),
        ("consensus-window", "aaaaaaaa", True),
        ("consensus-window:window=4,threshold=0.75", "abaa", True),
        ("consensus-window:window=4,threshold=0.75", "aab", False),
        ("consensus-window:window=4,threshold=0.75", "aaab", False),  # it is the last answer that must have the share
        ("consensus-window:window=4,threshold=0.75", "-aaa", True),
        ("consensus-window:window=4,threshold=0.76", "-aaa", False),
        ("consensus-window:window=10,threshold=0.7", "abababaaaa", True),  # exactly 7 of 10
    ],
)
def test_consensus_windows_worked_out_by_hand(rule: str, answers: str, expected: bool) -> None:
    assert ask(rule, answers).stops is expected


@pytest.mark.parametrize(
    ("rule", "answers", "confidences", "expected"),
    [
        ("trial-confidence", "a", (0.995,), True),
        ("trial-confidence", "a", (0.9949,), False),
        ("trial-confidence", "ab", (0.5, 1.0), True),
        ("trial-confidence", "ab", (1.0, 0.5), False),  # judged on the last
        ("trial-confidence:threshold=0.9,repeats=2", "aa", (0.9, 0.95), True),
        ("trial-confidence:threshold=0.9,repeats=2", "aa", (0.89, 0.95), False),  # each must be sure
        ("trial-confidence:threshold=0.9,repeats=2", "ab", (0.95, 0.95), False),
        ("trial-confidence:threshold=0.9,repeats=2", "a-a", (0.95, 0.95, 0.95), False),
        ("trial-confidence:threshold=0.9,repeats=2", "aAa", (0.95, 0.95, 0.95), False),
        ("trial-confidence", "-", (1.0,), False),
        ("trial-confidence", "A", (1.0,), False),
        ("trial-confidence", "a", (None,), False),
        ("trial-confidence:threshold=0.9,repeats=2", "aa", (None, 0.95), False),
    ],
)
def test_trial_confidences_worked_out_by_hand(
    rule: str, answers: str, confidences: tuple[float | None, ...], expected: bool
) -> None:
    assert ask(rule, answers, confidences).stops is expected


@pytest.mark.parametrize("rule", ["consensus-window:window=3", "trial-confidence:repeats=3"])
def test_answers_whose_equality_is_open_do_not_agree_until_it_is_decided(rule: str) -> None:
    before = ask(rule, "aba", undecided="ab")
    merged = ask(rule, "aaa")
    assert (before.stops, merged.stops) == (False, True)
    assert ask(rule, "aaa", undecided="a").stops, "equal labels agree whatever is open elsewhere"


def test_reasons_give_the_numbers() -> None:
    assert ask("consensus-window:window=3", "a").reason == "1 of the 3 trials to compare"
    assert (
        ask("consensus-window:window=3", "baaa").reason == "consensus 1.00 ≥ 1 over the last 3 of 4 trials, 256 tokens"
    )
    assert "consensus 0.67 < 1" in ask("consensus-window:window=3", "aba").reason
    assert (
        ask("trial-confidence", "a", (0.999,)).reason
        == "confidence 0.9990 ≥ 0.995 over the last 1 of 1 trials, 64 tokens"
    )
    assert ask("trial-confidence:repeats=2", "ba").reason == "1 of 2 equal trials in a row, 2 in all"
    assert ask("trial-confidence", "a", (None,)).reason == "the engine gives no log-probabilities of the trial answers"


@pytest.mark.parametrize(
    ("rule", "schedule"),
    [
        ("even", ProbeSchedule()),
        ("consensus-window:window=3,interval=64", ProbeSchedule(interval=64)),
        ("consensus-window", ProbeSchedule(interval=512)),
        ("trial-confidence", ProbeSchedule(marks=("Wait", "Alternatively"))),
        ("trial-confidence:interval=300", ProbeSchedule(interval=300, marks=("Wait", "Alternatively"))),
        (
            "consensus-window:interval=256 & trial-confidence:interval=300",
            ProbeSchedule(interval=256, marks=("Wait", "Alternatively")),
        ),
        ("even & trial-confidence", ProbeSchedule(marks=("Wait", "Alternatively"))),
    ],
)
def test_schedules(rule: str, schedule: ProbeSchedule) -> None:
    assert parse_chain_rule(rule).schedule == schedule


@pytest.mark.parametrize(
    ("rule", "answers", "confidences", "certaindex"),
    [
        ("even", "abaa", None, 0.75),
        ("even", "aaa", None, 0.0),
        ("consensus-window:window=4", "abaa", None, 0.75),
        ("trial-confidence", "a", (0.8,), 0.8),
        ("trial-confidence:repeats=2", "aa", (0.8, 0.9), 0.8),
        ("trial-confidence:repeats=2", "ba", (0.8, 0.9), 0.0),
        ("trial-confidence", "a", (None,), 0.0),
        ("trial-confidence", "A", (0.8,), 0.0),
        ("consensus-window:window=2 & trial-confidence", "ba", (0.8, 0.9), 0.5),
    ],
)
def test_certaindex(rule: str, answers: str, confidences: tuple[float | None, ...] | None, certaindex: float) -> None:
    given_confidences = (SURE,) * len(answers) if confidences is None else confidences
    assert parse_chain_rule(rule).certaindex(chain(answers, confidences=given_confidences)) == certaindex


def test_a_conjunction_stops_when_all_its_parts_do() -> None:
    rule = "consensus-window:window=2 & trial-confidence:threshold=0.9"
    assert ask(rule, "aa", (0.5, 0.95)).kind is VerdictKind.STOP_CERTAIN
    assert not ask(rule, "ba", (0.5, 0.95)).stops
    assert not ask(rule, "aa", (0.95, 0.5)).stops
    assert ask(rule, "aa", (0.95, 0.5)).reason == "confidence 0.5000 < 0.9 over the last 1 of 2 trials, 128 tokens"


@pytest.mark.parametrize("rule", EVERY_RULE)
@pytest.mark.parametrize("answers", ["", "-", "--------", "AAAAAAAA", "A-A-A-A-", "aaaaaaa-", "aaaaaaaA"])
def test_nothing_stops_on_an_answer_that_is_empty_or_not_meant(rule: str, answers: str) -> None:
    assert not ask(rule, answers).stops


TRIALS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 2)),
        st.integers(1, 100),
        st.one_of(st.none(), st.floats(0, 1)),
        st.booleans(),
    ),
    max_size=12,
)


def of(steps: list[tuple[int | None, int, float | None, bool]], undecided: frozenset[int]) -> Trials:
    positions = [sum(step for _, step, _, _ in steps[: count + 1]) for count in range(len(steps))]
    return Trials(
        labels=tuple(label for label, _, _, _ in steps),
        positions=tuple(positions),
        confidences=tuple(confidence for _, _, confidence, _ in steps),
        hesitant=tuple(hesitant for _, _, _, hesitant in steps),
        undecided=undecided,
    )


@given(st.sampled_from(EVERY_RULE), TRIALS, st.frozensets(st.integers(0, 2)))
def test_a_chain_rule_is_a_pure_function_that_never_fails(
    rule: str, steps: list[tuple[int | None, int, float | None, bool]], undecided: frozenset[int]
) -> None:
    trials = of(steps, undecided)
    asked: ChainRule = parse_chain_rule(rule)
    verdict = asked.verdict(trials)
    assert verdict == parse_chain_rule(str(asked)).verdict(trials)
    assert verdict.reason
    assert 0 <= asked.certaindex(trials) <= 1
    if verdict.stops:
        assert trials.labels[-1] is not None
        assert trials.last == trials.labels[-1], "what it stops on is the chain's answer"


@given(st.sampled_from(EVERY_RULE), TRIALS, st.integers(0, 2), st.integers(0, 2))
def test_a_stop_survives_every_merge(
    rule: str, steps: list[tuple[int | None, int, float | None, bool]], kept: int, gone: int
) -> None:
    """The evaluator may find two clusters equal after the rule has spoken; that must not have been needed."""
    before = of(steps, frozenset({kept, gone}))
    after = of([(kept if label == gone else label, *rest) for label, *rest in steps], frozenset())  # type: ignore[misc]
    if parse_chain_rule(rule).verdict(before).stops:
        assert parse_chain_rule(rule).verdict(after).stops

"""The profiler: runs small enough to fit by hand, and what a fit promises of the runs that it was fitted to."""

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynasor_serve.certaindex.labelled_runs import LabelledRun, ProfileError, profile
from dynasor_serve.certaindex.profiler import POLICIES, fit
from dynasor_serve.certaindex.rules import parse_vote_rule
from dynasor_serve.certaindex.rules.default import Default
from dynasor_serve.certaindex.votes import Votes


def run(
    answers: str, right: str = "a", *, rewards: tuple[float, ...] = (), tokens: tuple[int, ...] | int = 100
) -> LabelledRun:
    """A run whose samples are one character each, `-` without an answer; those of `right` are right."""
    names = {name: label for label, name in enumerate(dict.fromkeys(answers.replace("-", "")))}
    each = (tokens,) * len(answers) if isinstance(tokens, int) else tokens
    votes = Votes(tuple(names.get(answer) for answer in answers), len(answers), rewards=rewards, tokens=each)
    return LabelledRun(votes, tuple(answer in right for answer in answers))


def stopped(rule: str, of: LabelledRun, cap: int | None = None) -> int:
    """After how many samples a rule that is asked at each arrival stops a run at a cap."""
    asked = parse_vote_rule(rule)
    votes, cap = of.votes, cap or of.cap
    for count in range(1, cap + 1):
        seen = votes.prefix(count)
        if asked.verdict(Votes(seen.labels, cap, rewards=seen.rewards, tokens=seen.tokens)).stops:
            return count
    return cap


@pytest.mark.parametrize(
    ("answers", "needed", "too_early"),
    [
        ("aaaa", 1, []),
        ("baaa", 3, [1, 2]),  # a tie goes to the answer seen first
        ("abba", 4, [3]),  # b leads after three; the tie at four goes to a
        ("bbba", 0, []),  # wrong at the cap: more samples do not mend it
        ("--aa", 3, [1, 2]),  # no answer is not right
        ("----", 0, []),
        ("abab", 1, []),
    ],
)
def test_a_run_needs_the_samples_from_which_on_its_vote_stays_right(
    answers: str, needed: int, too_early: list[int]
) -> None:
    assert (run(answers).needed, run(answers).too_early()) == (needed, too_early)


def test_equal_answers_are_as_right_as_the_first_of_them() -> None:
    contradictory = LabelledRun(Votes((0, 0, 1), 3), (True, False, False))
    assert contradictory.right == (False, True, True, True)


def test_static_threshold_is_the_lowest_that_hurts_nowhere() -> None:
    """H̃ of five: 1, then 4-1 at 0.689, 3-2 at 0.582, 2-2-1 at 0.345."""
    runs = [run("aaaaaaaa"), run("aaaabaaa"), run("bbbaaaaa"), run("abcabaaa")]
    assert fit("static-threshold", runs) == "static-threshold:threshold=0.689,detect=5"
    harmless = [*runs[:2], run("aaabbaaa"), runs[3]]
    assert fit("static-threshold", harmless) == "static-threshold:threshold=0.344,detect=5"


def test_the_first_threshold_that_hurts_ends_the_search() -> None:
    hurt_by_unanimity = [run("bbbbbaaaaaaa"), run("aaabbaaaaaaa")]
    assert fit("static-threshold", hurt_by_unanimity) == "even"


def test_a_stop_that_mends_as_much_as_it_spoils_hurts_nowhere_only_if_it_does_at_each_cap() -> None:
    spoiled, mended = "bbbaaaaaa", "aaabbbbbb"  # both turn at the seventh sample
    assert fit("static-threshold", [run(spoiled), run(mended)]) == "static-threshold:threshold=0.581,detect=5"
    mended_late = "aaabbabbb"  # at the ninth
    assert fit("static-threshold", [run(spoiled), run(mended_late)]) == "even"


def test_n_step_threshold_counts_the_first_step_that_stops() -> None:
    """Every two: aa is 1; ab is 0; 3-1 of four is 0.594; 2-2 is 0.5; of six 5-1 is 0.749, 4-2 0.645."""
    assert fit("n-step-threshold", [run("aaaaaaaa"), run("abaaaaaa")], every=2) == (
        "n-step-threshold:threshold=0.594,every=2"
    )
    bbaaaaaa = run("bbaaaaaa")  # stopped after two at any threshold
    assert fit("n-step-threshold", [run("aaaaaaaa"), bbaaaaaa], every=2) == "even"
    assert fit("n-step-threshold", [run("aaaaaaaa"), run("babaaaaa")], every=4) == (
        "n-step-threshold:threshold=1.0,every=4"
    )


def test_initial_curve_is_the_skyline_of_what_runs_needed() -> None:
    runs = [
        run("aaaaaaaaaa"),  # H̃ 1, needs 1
        run("aaaabaaaaa"),  # 0.689, needs 1
        run("bbbaaaaaaa"),  # 0.582, needs 7: at six it is 3:3 and b was first
        run("bbcacaaaaa"),  # 0.345, needs 7
        run("abcdeaaaaa"),  # 0, needs 1
    ]
    assert [each.needed for each in runs] == [1, 1, 7, 7, 1]
    assert fit("initial-curve", runs) == "initial-curve:detect=5,curve=0.344/7;0.689/5"
    assert fit("initial-curve", runs, quantile=0.8) == "initial-curve:detect=5,curve=0.344/7;0.581/5"
    assert fit("initial-curve", runs, quantile=0.6) == "initial-curve:detect=5,curve=0.344/5"


def test_dynamic_curve_lies_above_every_stop_that_is_too_early() -> None:
    """bbaaaaaa is too early at H̃ 1 after 2, 0.421 (2-1) after 3 and 0.5 (2-2) after 4; its 3-2 is 0.582."""
    runs = [run("aaaaaaaa"), run("bbaaaaaa")]
    assert runs[1].too_early() == [1, 2, 3, 4]
    assert fit("dynamic-curve", runs) == "dynamic-curve:curve=0.42/5;0.581/3"
    assert [stopped(fit("dynamic-curve", runs), each) for each in runs] == [3, 5]


def test_a_curve_that_leaves_the_cap_everywhere_is_even() -> None:
    assert fit("initial-curve", [run("bbbbaaaaa"), run("aaaaaaaaa")], detect=4) == "even"


def test_length_is_the_most_tokens_that_hurt_nowhere() -> None:
    easy, middling = run("aaaaaa", tokens=10), run("baaaaa", tokens=20)
    hard = run("bbaaaa", tokens=30)
    assert fit("length", [easy, middling, hard], detect=3) == "length:tokens=60,detect=3"
    assert fit("length", [hard, middling], detect=2) == "even"


@pytest.mark.parametrize("reward", ["mean", "max"])
def test_multi_metric_stops_most_runs_and_hurts_none(reward: Literal["max", "mean"]) -> None:
    runs = [
        run("aaaaaa", rewards=(0.9,) * 6),
        run("aaaaaa", rewards=(0.6,) * 6),
        run("bbbaaaaaa", rewards=(0.3,) * 9),  # sure, and wrong for long: only the reward tells
        run("aabaaa", rewards=(0.8,) * 6),
        run("bbaaaa", rewards=(0.95,) * 6),  # rewarded, and wrong for long: only H̃ tells
    ]
    fitted = fit("multi-metric", runs, detect=3, reward=reward)
    assert fitted.startswith("static-threshold:threshold=1.0,detect=3 & reward-threshold:")
    assert f"{reward}=0.599" in fitted
    assert [stopped(fitted, each) for each in runs] == [3, 3, 9, 6, 6]


def test_a_profile_has_a_row_per_certaindex() -> None:
    runs = [run("aaaaaa"), run("bbbaaa", tokens=50), run("aaaaaa", tokens=300), run("bbabbb")]
    sure, unsure = profile(runs, detect=3)
    assert (sure.certainty, sure.runs, sure.most_needed) == (1.0, 3, 1)
    assert sure.right_then == pytest.approx(2 / 3)
    assert (sure.tokens_then, sure.tokens_at_cap) == (450, 900)
    assert (unsure.runs, unsure.right_at_cap, unsure.most_needed) == (1, 0.0, 0)
    assert profile([LabelledRun(Votes((0, 0), 2), (True, True))], detect=1)[0].tokens_then is None


def test_runs_no_longer_than_the_detect_step_teach_nothing_and_do_no_harm() -> None:
    runs = [run("aaaaaaaa"), run("bbb"), run("aaaaa")]
    assert fit("static-threshold", runs) == "static-threshold:threshold=1.0,detect=5"


RUNS = st.lists(
    st.builds(
        run,
        st.text("aabc-", min_size=8, max_size=8),
        st.sampled_from(["a", "b", "ac", ""]),
        rewards=st.tuples(*[st.sampled_from((0.1, 0.5, 0.9))] * 8),
        tokens=st.tuples(*[st.integers(1, 9)] * 8),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(st.sampled_from([each for each in POLICIES if each != "default"]), RUNS, st.sampled_from([2, 3, 5]))
def test_no_fit_hurts_the_runs_that_it_was_fitted_to(policy: str, runs: list[LabelledRun], step: int) -> None:
    rule = fit(policy, runs, detect=step, every=step)
    caps = [8] if policy.endswith("-curve") else range(1, 9)  # curves are fitted to the cap
    for cap in caps:
        with_rule = sum(each.right[stopped(rule, each, cap)] for each in runs)
        assert with_rule >= sum(each.right[cap] for each in runs)
    assert fit(policy, list(runs), detect=step, every=step) == rule


@settings(deadline=None)
@given(RUNS, st.floats(0.5, 1))
def test_a_quantile_only_lowers_a_curve(runs: list[LabelledRun], quantile: float) -> None:
    for policy in ("initial-curve", "dynamic-curve"):
        strict, lenient = fit(policy, runs), fit(policy, runs, quantile=quantile)
        assert all(stopped(lenient, each) <= stopped(strict, each) for each in runs)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_can_be_fitted_to_no_runs(policy: str) -> None:
    with pytest.raises(ProfileError, match="there are no runs to fit to"):
        fit(policy, [])


@pytest.mark.parametrize(
    ("policy", "arguments", "told"),
    [
        ("even", {}, "there is no policy 'even' to fit; known are static-threshold, n-step-threshold"),
        ("static-threshold", {"detect": 8}, "detect is 8 at a cap of 8; it must be at least 1 and below the cap"),
        ("n-step-threshold", {"every": 0}, "every is 0 at a cap of 8"),
        ("initial-curve", {"quantile": 0.0}, "a share 0.0 of the runs; it is above 0 to 1"),
        ("dynamic-curve", {"quantile": float("nan")}, "a share nan of the runs"),
        ("multi-metric", {}, "no run has an answer and a reward in its first 5 samples"),
    ],
)
def test_what_cannot_be_fitted_is_refused(policy: str, arguments: dict, told: str) -> None:
    with pytest.raises(ProfileError) as refused:
        fit(policy, [run("aaaaaaaa")], **arguments)
    assert told in str(refused.value)


def test_default_is_fitted_without_knowing_what_is_right() -> None:
    answers = ("aaaaaaaa", "aaaabaaa", "abcdefgh", "aaaaaaaa", "ababacaa")
    fitted = fit("default", [run(each, "a") for each in answers])
    assert fitted == fit("default", [run(each, "") for each in answers])
    rule, scattered = parse_vote_rule(fitted), parse_vote_rule(fit("default", [run("abcdefgh"), run("abcdabcd")]))
    assert isinstance(rule, Default)
    assert isinstance(scattered, Default)
    assert rule.risk == Default().risk
    assert scattered.concentration > rule.concentration


def test_length_needs_tokens() -> None:
    with pytest.raises(ProfileError, match="does not count its tokens"):
        fit("length", [LabelledRun(Votes((0,) * 8, 8), (True,) * 8)])


@pytest.mark.parametrize("correct", [(True,), (True, None), (True, float("nan")), (True, 1)])
def test_a_run_without_labels_is_refused(correct: tuple) -> None:
    with pytest.raises(ProfileError, match=r"2 samples are labelled .*; each must be True or False"):
        LabelledRun(Votes((0, 0), 2), correct)


def test_a_run_without_samples_is_refused() -> None:
    with pytest.raises(ProfileError, match="no samples"):
        LabelledRun(Votes((), 4), ())

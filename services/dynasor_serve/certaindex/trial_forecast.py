"""Will a chain's trial answer still be its answer at the end? A forecast fitted to how chains answered before.

`rules.default` asks at each trial. It is a logistic regression on the 19,000 trial answers of 1,710 chains of
R1-Distill-Qwen-7B on MATH500, AMC23 and AIME24, recorded by Governor (MIT). What it was fitted to is whether the trial
and the chain's own final answer differ; which of them is right was not looked at.
"""

from math import exp, log

from dynasor_serve.certaindex.trials import Trials

_SUREST = 1e-5  # short of 1: confidences above are told apart by rounding only


def change_probability(trials: Trials) -> float | None:
    """Return the probability that the chain ends with another answer than its last trial, in [0, 1].

    It falls with the confidence of the trial, that of the equal one before it and the tokens since the answer was
    first given, and rises with the tokens of the chain: the longer it thinks, the harder its question.

    Returns:
        None if the last trial does not count, or the engine gave no log-probabilities of it.
    """
    run, confidence = trials.last_run(), trials.confidences[-1] if trials.confidences else None
    if not run or confidence is None:
        return None
    before = trials.confidences[-2] if run > 1 else None
    position = trials.positions[-1]
    lasted = position - trials.positions[-run]
    score = 1.929 - 0.645 * _sureness(confidence) + 0.442 * log(1 + position / 200) - 0.159 * log(1 + lasted / 50)
    if before is not None:
        score -= 0.144 * _sureness(before)
    return 1 / (1 + exp(-score))


def _sureness(confidence: float) -> float:
    """The negative logarithm of the doubt: 0 at a confidence of 0, 10.8 at most."""
    return -log(1 - min(confidence, 1 - _SUREST) + _SUREST)

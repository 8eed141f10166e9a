"""The file of an accuracy SLO: what was calibrated, the rule with its thresholds, and what is promised of it.

`dynasor calibrate` writes one. Whoever reads one gives the programs that it fits the type string `rule`, which says all
that a program needs; the rest says where that comes from.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.certaindex.rules.risk_controlled import RiskControlled
from dynasor_serve.certaindex.rules.rule import InvalidRule

VERSION = 1


class PolicyError(ValueError):
    """A policy that cannot be read, or does not fit; the message says what is wrong and what would be right."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of calibration questions.

    Attributes:
        name: of the file, without its directory.
        sha256: of its bytes, in hexadecimal.
    """

    name: str
    sha256: str


class AccuracyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `dynasor calibrate` found, as it is written.

    Attributes:
        version: of this layout.
        algorithm: the programs that it is for.
        model, run: the model, and the name of its run where that has one.
        cap: samples of the full program.
        width: samples side by side.
        datasets: names of the sets of the calibration questions.
        sources: the files that they came from.
        rule: the type string that programs get.
        target: the most mean net loss that is promised, as a share: 0.02 is two points.
        confidence: of the promise.
        reference: what a stopped program is compared with: `labels` (is its answer right where the full program's is?)
            or `full-program` (is it the same?).
        ordering_questions, testing_questions: how many were used for which.
        left_out_questions: those that had fewer samples than the cap.
        loss: mean net loss on the testing questions.
        bound: upper confidence bound of the mean loss of this rule alone, from the testing questions.
        harm, rescue: testing questions turned wrong, and right, in the mean over their programs.
        saved_percent: tokens saved on the testing questions, of those at the cap.
        shuffles, seed: of the samples' orders; the seed draws the ordering questions, too.

    Raises:
        PolicyError: the rule is none over votes, contradicts the rest, or a number is out of bounds.
    """

    version: int = VERSION
    algorithm: Literal["self-consistency"] = "self-consistency"
    model: str
    run: str | None = None
    cap: int
    width: int
    datasets: list[str]
    sources: list[Source]
    rule: str
    target: float
    confidence: float
    reference: Literal["labels", "full-program"]
    ordering_questions: int
    testing_questions: int
    left_out_questions: int
    loss: float
    bound: float
    harm: float
    rescue: float
    saved_percent: float
    shuffles: int
    seed: int

    def __post_init__(self) -> None:
        if not (0 < self.target < 1 and 0 < self.confidence < 1):
            raise PolicyError(f"target {self.target} at confidence {self.confidence}; both must be above 0 and below 1")
        if self.cap < 1 or self.width < 1:
            raise PolicyError(f"cap {self.cap} at width {self.width}; both must be at least 1")
        if not self.bound <= self.target:  # NaN is not
            raise PolicyError(f"bound {self.bound} does not keep the target {self.target}; calibrate again")
        try:
            rule = parse_vote_rule(self.rule)
        except InvalidRule as error:
            raise PolicyError(f"rule {self.rule!r:.80} cannot be used ({error}); calibrate again") from error
        promised = (self.cap, self.width, self.target, self.confidence)
        if isinstance(rule, RiskControlled) and (rule.cap, rule.width, rule.target, rule.confidence) != promised:
            raise PolicyError(f"rule {self.rule} promises something else than the rest of the policy; calibrate again")

    def check_fits(self, *, algorithm: str, model: str, cap: int, width: int) -> None:
        """Refuses programs that the promise does not cover.

        Raises:
            PolicyError: they are of another algorithm or model, or have another cap or width.
        """
        asked = {"algorithm": algorithm, "model": model, "cap": cap, "width": width}
        for name, value in asked.items():
            calibrated = getattr(self, name)
            if calibrated != value:
                raise PolicyError(f"the policy is for {name} {calibrated}, not {value}; calibrate one for that")


def read_policy(written: bytes) -> AccuracyPolicy:
    """Return the policy of a file's bytes.

    Raises:
        PolicyError: they are no policy, or one of another version.
    """
    try:
        version = msgspec.json.decode(written, type=_Versioned).version
        if version != VERSION:
            raise PolicyError(f"the policy has version {version}; this release reads {VERSION}, so calibrate again")
        return msgspec.json.decode(written, type=AccuracyPolicy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # with that, what does not validate
        if isinstance(error.__cause__, PolicyError):
            raise error.__cause__ from None
        raise PolicyError(f"no policy ({error}); give a file that `dynasor calibrate` wrote") from error


def written_policy(policy: AccuracyPolicy) -> bytes:
    """Return a policy as a file's bytes, one field a line."""
    return msgspec.json.format(msgspec.json.encode(policy), indent=2) + b"\n"


class _Versioned(msgspec.Struct):
    version: int

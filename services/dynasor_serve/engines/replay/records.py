r"""What does a record of the trace format hold? One struct per kind; a line's kind shows in the key that only it has.

`samples`: one question, many answers. `probes`: one long chain of thought, asked for its answer on the way. `steps`:
one search tree. `traces` reads them; which of them a prompt means is `trace_index`'s question. Beside what recorders
of others write, these optional fields are read, so that a recording of one's own can be played as it was:

- any record: `prompt` (the exact prompt) and `question` (the bare question in it), `run_id`, `method`, `effort`,
  `source`, `budget`, `seed`, `rollout`;
- a sample: `text`, `confidence`, `token_logprobs`;
- a chain: `text`, `text_positions`, `think_tags`, `reward`;
- a tree: `value_max`, and `answer` in a candidate or a final candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Final, NamedTuple

import msgspec

#: The answer "mathematically equal to the record's `gold`".
GOLD: Final = "=gold"

#: Sum of three votes of GPT-4 that call a state of Game24 "sure" (20 each): the largest value of those recordings.
_SURE_VOTES: Final = 60.0

#: Beyond it numbers of tokens are no longer exact as floats, and no recording is that long.
_MOST_TOKENS: Final = 2**53

_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Logprob = Annotated[float, msgspec.Meta(le=0)]

_DENSE_FIELDS: Final = ("token_position", "answer_index", "certain", "probe_out_tokens")


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    """What every record says of its question.

    `run_id`, `method`, `effort` and `budget` tell runs of it by one model apart, `source` recordings of the same run,
    `seed` and `rollout` records of one run.
    """

    dataset: str
    model: str
    question_id: str
    gold: str | None = None
    run_id: str | None = None
    method: str | None = None
    effort: str | int | None = None
    source: str | None = None
    budget: int | None = None
    seed: int | None = None
    rollout: int | None = None
    prompt: str | None = None
    question: str | None = None

    @property
    def run_names(self) -> tuple[str, ...]:
        """The names by which a prompt may ask for this run, the most telling first."""
        names = (self.run_id, self.method, None if self.effort is None else str(self.effort))
        return tuple(name for name in names if name is not None)

    def as_written(self, answer: str | None) -> str | None:
        """Return an answer as the model would write it: `GOLD` becomes the gold answer."""
        return self.gold if answer == GOLD else answer


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded completion of a question.

    Attributes:
        answer: Canonical final answer, `GOLD` for one equal to the record's gold, None if none was found.
        correct: Whether the answer equals the gold one.
        tokens: Completion tokens, reasoning included.
        reasoning_tokens: Those of them that were reasoning, where the recorder told.
        in_tokens: Prompt tokens, where recorded.
        reward: Reward model's score in [0, 1], where recorded.
        time_s: Wall time of the recorded call in seconds, where recorded.
        finished: False when the recorded call ran into its token limit.
        text: The completion itself, where recorded.
        confidence: Mean probability of its tokens, where recorded.
        token_logprobs: Log-probability of each of its tokens, where recorded.
    """

    answer: str | None
    correct: bool
    tokens: _Count
    reasoning_tokens: _Count | None = None
    in_tokens: _Count | None = None
    reward: _Share | None = None
    time_s: float | None = None
    finished: bool = True
    text: str | None = None
    confidence: _Share | None = None
    token_logprobs: tuple[_Logprob, ...] | None = None


class SamplesRecord(_Question, frozen=True, kw_only=True):
    """Every recorded completion of one question by one model run, in recorded order.

    `verifiable` marks questions whose answers are checked rather than voted on.
    """

    gold: str | None
    tokens_kind: str
    samples: Annotated[tuple[Sample, ...], msgspec.Meta(min_length=1)]
    verifiable: bool = False

    def __post_init__(self) -> None:
        _check_gold(self, (sample.answer for sample in self.samples))

    def answer_text(self, sample: Sample) -> str | None:
        """Return the sample's answer as the model would write it."""
        return self.as_written(sample.answer)


class Probe(NamedTuple):
    """What a half-finished chain answered when it was asked.

    Attributes:
        position: Tokens of the chain before it.
        answer: As written; empty where it gave none.
        certain: Whether the reply did not hesitate.
        confidence: Mean probability of the reply's tokens, where recorded.
        tokens: Completion tokens of the reply.
    """

    position: int
    answer: str
    certain: bool
    confidence: float | None
    tokens: int


class ProbesRecord(_Question, frozen=True, kw_only=True):
    """One long chain of thought and what it answered on its way.

    Attributes:
        tokens: Its length.
        finished: False when it ran into its token limit.
        final_answer: Its own answer, None if none was found.
        answers: What the probes' `answer_index` counts in.
        probe_fields: Names of the numbers in each row of `probes`: `token_position`, `answer_index` and
            `probe_out_tokens`, and `certain` (0 or 1), `confidence` (mean token probability), or both.
        probes: One row per probe, by position.
        seed: Tells the chains of a question apart, and orders them.
        source: Tells recordings of the same chain apart.
        rollout: Tells chains apart that are samples of one vote; None where they are not.
        answer_correct: Whether each of `answers` is right, where recorded; in step with it.
        answer_cluster: What equal `answers` share, in step with them; without it equal strings are equal.
        final_cluster: The cluster of the final answer, where recorded.
        final_correct: Whether the final answer is right, where recorded.
        text: The chain itself, where recorded.
        text_positions: Pairs (tokens, characters of `text` that they make), by position, where recorded; between two of
            them characters are taken to be spread evenly over the tokens.
        think_tags: Whether the thinking is written between `<think>` and `</think>`; for a chain without `text`.
        reward: Reward model's score of the whole chain in [0, 1], where recorded.
    """

    gold: str | None
    tokens: _Count
    answers: tuple[str | None, ...]
    probes: tuple[tuple[float, ...], ...]
    probe_fields: tuple[str, ...] = _DENSE_FIELDS
    finished: bool = True
    final_answer: str | None = None
    answer_correct: tuple[bool | None, ...] | None = None
    answer_cluster: tuple[str | int | None, ...] | None = None
    final_cluster: str | int | None = None
    final_correct: bool | None = None
    text: str | None = None
    text_positions: tuple[tuple[_Count, _Count], ...] | None = None
    think_tags: bool = False
    reward: _Share | None = None

    def __post_init__(self) -> None:
        _check_gold(self, (*self.answers, self.final_answer))
        _check_answers(self)
        _check_probes(self)
        _check_positions(self)

    @property
    def run_names(self) -> tuple[str, ...]:
        """As of every record, and `source`."""
        return (*((self.source,) if self.source else ()), *super().run_names)

    @property
    def is_probed_at_marks(self) -> bool:
        """Whether its probes are trial answers at reflection marks, and not at fixed numbers of tokens."""
        return "confidence" in self.probe_fields and "certain" not in self.probe_fields

    def trials(self) -> tuple[Probe, ...]:
        """Return its probes, by position."""
        rows = (dict(zip(self.probe_fields, row, strict=True)) for row in self.probes)
        return tuple(
            Probe(
                position=int(row["token_position"]),
                answer=self.as_written(self.answers[int(row["answer_index"])]) or "",
                certain=bool(row.get("certain", 1)),
                confidence=row.get("confidence"),
                tokens=int(row["probe_out_tokens"]),
            )
            for row in rows
        )


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded thought of a search.

    Attributes:
        thought: Its text, or that of the whole path up to it (see `StepsRecord`).
        parent: Index among the candidates that the step before selected; no meaning in the first step.
        value: The model's own score of it, where it has one.
        selected: Whether the search went on from it.
        tokens: Completion tokens of `thought`.
        answer: The answer that it ends with, where recorded.
    """

    thought: str
    tokens: _Count
    parent: _Count = 0
    value: Annotated[float, msgspec.Meta(ge=0)] | None = None
    selected: bool = False
    answer: str | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Every candidate of one depth, in recorded order."""

    candidates: Annotated[tuple[Candidate, ...], msgspec.Meta(min_length=1)]


class FinalCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """What the search ended with: the text of a path (`y`, or `thought`), whether it is right, and its answer."""

    correct: bool | None = None
    y: str | None = None
    thought: str | None = None
    answer: str | None = None


class StepsRecord(_Question, frozen=True, kw_only=True):
    """One recorded search tree.

    `thought` is a thought's own text, or the text of its whole path. It is the latter where, from the second step on,
    every one begins with a thought that the step before selected; `tokens` are then those of the path, and parents are
    known by that beginning alone (recordings of Tree of Thoughts number them in the order of their values).

    Attributes:
        steps: By depth.
        final: What the search ended with.
        value_max: The largest value that a candidate can have. Rewards are value ÷ `value_max`. Where it is missing it
            is 1 if no value of the record is larger, and else 60, or the largest value if that is more still: the
            values of GPT-4's Game24 trees are sums of three votes of 20 ("sure"), 1 ("likely") or 0.001 ("impossible"),
            and a share of the largest sum keeps the order by which that search selected.
    """

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1)]
    final: tuple[FinalCandidate, ...] = ()
    value_max: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        for depth, (before, step) in enumerate(pairwise(self.steps), start=1):
            selected = len(expanded(before))
            for candidate in step.candidates:
                if candidate.parent >= selected:
                    raise ValueError(
                        f"a candidate of step {depth} has parent {candidate.parent}, and step {depth - 1} selected "
                        f"{selected}; give an index among those"
                    )
        if self.value_max is not None and self._largest_value > self.value_max:
            raise ValueError(f"a value is {self._largest_value:g}, above value_max {self.value_max:g}")

    @property
    def _largest_value(self) -> float:
        return max((each.value or 0.0 for step in self.steps for each in step.candidates), default=0.0)

    @property
    def value_scale(self) -> float:
        """What a value is divided by to be a reward in [0, 1]."""
        if self.value_max is not None:
            return self.value_max
        largest = self._largest_value
        return 1.0 if largest <= 1 else max(_SURE_VOTES, largest)


Record = SamplesRecord | ProbesRecord | StepsRecord


def expanded(step: Step) -> tuple[Candidate, ...]:
    """Return the candidates of a step that `parent` of the next one counts in: the selected ones, all if none is."""
    return tuple(candidate for candidate in step.candidates if candidate.selected) or step.candidates


def _check_gold(record: _Question, answers: Iterable[str | None]) -> None:
    if record.gold is None and any(answer == GOLD for answer in answers):
        raise ValueError(f'an answer is "{GOLD}" while gold is null; give gold, or the answer itself')


def _check_answers(record: ProbesRecord) -> None:
    for name in ("answer_correct", "answer_cluster"):
        values = getattr(record, name)
        if values is not None and len(values) != len(record.answers):
            raise ValueError(f"{name} has {len(values)} entries, and answers {len(record.answers)}; give one for each")


def _check_probes(record: ProbesRecord) -> None:
    fields = set(record.probe_fields)
    needed = {"token_position", "answer_index", "probe_out_tokens"}
    if not needed <= fields or not fields & {"certain", "confidence"}:
        raise ValueError(
            f"probe_fields are {', '.join(record.probe_fields)}; name {', '.join(sorted(needed))}, and certain or "
            "confidence"
        )
    width = len(record.probe_fields)
    last = -1.0
    for number, row in enumerate(record.probes):
        if len(row) != width:
            raise ValueError(f"probes[{number}] has {len(row)} numbers; probe_fields names {width}")
        values = dict(zip(record.probe_fields, row, strict=True))
        for name in ("token_position", "answer_index", "probe_out_tokens"):
            if not values[name].is_integer():
                raise ValueError(f"probes[{number}] has {name} {values[name]:g}; give a whole number")
        if values.get("certain", 1) not in (0, 1):
            raise ValueError(f"probes[{number}] has certain {values['certain']:g}; give 0 or 1")
        position, answer = values["token_position"], values["answer_index"]
        if not last < position <= record.tokens:
            raise ValueError(
                f"probes[{number}] is at token {position:g}; positions increase, up to the {record.tokens} of the chain"
            )
        last = position
        if not 0 <= answer < len(record.answers):
            raise ValueError(f"probes[{number}] has answer {answer:g} of {len(record.answers)}; indices count from 0")
        if not 0 <= values.get("confidence", 0) <= 1:
            raise ValueError(f"probes[{number}] has confidence {values['confidence']}; it must be in [0, 1]")
        if not 0 <= values["probe_out_tokens"] <= _MOST_TOKENS:
            raise ValueError(f"probes[{number}] has {values['probe_out_tokens']:g} tokens; give 0 to {_MOST_TOKENS}")


def _check_positions(record: ProbesRecord) -> None:
    if record.text_positions is None:
        return
    if record.text is None:
        raise ValueError("text_positions without text; give the text that they count in")
    points = record.text_positions
    increase = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(points))
    if not increase or any(point[0] > record.tokens or point[1] > len(record.text) for point in points):
        raise ValueError(f"text_positions must not decrease, up to [{record.tokens}, {len(record.text)}]")

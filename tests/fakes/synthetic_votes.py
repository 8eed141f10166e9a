"""What `traces/synthetic-votes.jsonl` says about a question, for tests that know which answer and cost to expect."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache

from fakes.replay_process import SYNTHETIC_VOTES

DATASET = "synthetic"
SAMPLES = 16  # per question


@dataclass(frozen=True, slots=True)
class RecordedQuestion:
    """One question of the fixture.

    Attributes:
        name: such as `q07`.
        gold: the right answer.
        answers: by branch; None where the sample has none.
        tokens: by branch.
        prompt: the exact prompt, where the fixture stores one.
    """

    name: str
    gold: str
    answers: tuple[str | None, ...]
    tokens: tuple[int, ...]
    prompt: str | None

    @property
    def marker(self) -> str:
        """A prompt that selects this question."""
        return f"Think, then answer. [[trace:{DATASET}/{self.name}]]"

    def winners(self, samples: int) -> set[str | None]:
        """The answers that most of the first so many branches gave; ties are decided by arrival."""
        votes = Counter(answer for answer in self.answers[:samples] if answer is not None)
        most = max(votes.values(), default=0)
        return {answer for answer, count in votes.items() if count == most}


@cache
def recorded_questions() -> dict[str, RecordedQuestion]:
    """All questions by name."""
    questions = {}
    for line in SYNTHETIC_VOTES.read_text().splitlines():
        record = json.loads(line)
        samples = record["samples"]
        questions[record["question_id"]] = RecordedQuestion(
            name=record["question_id"],
            gold=record["gold"],
            answers=tuple(record["gold"] if each["answer"] == "=gold" else each["answer"] for each in samples),
            tokens=tuple(each["tokens"] for each in samples),
            prompt=record.get("prompt"),
        )
    return questions


def recorded(name: str) -> RecordedQuestion:
    return recorded_questions()[name]

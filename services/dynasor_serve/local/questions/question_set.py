"""Reads the question files that lie beside this module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dynasor_serve.certaindex.answers import AnswerType

CANDIDATES = Path(__file__).with_name("candidates.jsonl")
ARITHMETIC = Path(__file__).with_name("arithmetic.jsonl")
WORD_PROBLEMS = Path(__file__).with_name("word-problems.jsonl")
BUNDLED = Path(__file__).with_name("bundled.jsonl")
TRACES = Path(__file__).with_name("traces")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the answer that is known to be right."""

    id: str
    question: str
    gold: str
    answer_type: AnswerType


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON Lines file, in its order.

    Raises:
        ValueError: A line is not a question, or an id occurs twice; the message names file and line.
    """
    questions: dict[str, Question] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            fields = json.loads(line)
            question = Question(
                id=fields["id"],
                question=fields["question"],
                gold=fields["gold"],
                answer_type=AnswerType(fields["answer_type"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: {error!r}; a question is {{id, question, gold, answer_type}}"
            ) from error
        if question.id in questions:
            raise ValueError(f"{path}:{number}: the id {question.id!r} occurs twice")
        questions[question.id] = question
    return list(questions.values())

"""Chooses the bundled questions from recorded answers: mostly right ones over the whole range of certainty.

    python -m dynasor_serve.local.questions.selection

Run after `record`. A demonstration needs questions that the model settles at once, questions over which it splits,
and a few of which it is sure and wrong (certainty is no proof). The choice is a function of the trace alone: the same
file gives the same questions.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynasor_serve.certaindex.entropy import normalised_entropy
from dynasor_serve.local.questions.question_set import BUNDLED, CANDIDATES, TRACES, read_questions

SHORT_ANSWER_TRACE = TRACES / "smollm2-135m.jsonl.gz"
VOTES = 16
RIGHT_QUESTIONS = 17
CONFIDENTLY_WRONG_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Vote:
    """How the first samples of one question voted."""

    question_id: str
    certainty: float
    """H̃ of the votes, in [0, 1]; samples without an answer are a cluster of their own."""
    majority: str | None
    """The answer with the most votes, the one seen first among equals; None if no sample has one."""
    majority_votes: int
    majority_is_right: bool
    majority_echoes_question: bool
    """The majority only repeats words of the question ("capital of Poland" – "Poland"): no mistake worth showing."""
    mean_tokens: float


def vote(question_id: str, question: str, samples: Sequence[dict[str, Any]], votes: int = VOTES) -> Vote:
    """The vote of the first samples of a record.

    Args:
        question_id: Of the record.
        question: Its text.
        samples: As in the trace format.
        votes: How many count.

    Raises:
        ValueError: The record holds fewer samples.
    """
    if len(samples) < votes:
        raise ValueError(f"{question_id} has {len(samples)} samples, and {votes} are needed: record more")
    counted = samples[:votes]
    clusters = Counter(sample["answer"] for sample in counted)
    answers = [(answer, count) for answer, count in clusters.most_common() if answer is not None]
    majority, majority_votes = answers[0] if answers else (None, 0)
    return Vote(
        question_id=question_id,
        certainty=round(normalised_entropy(list(clusters.values())), 4),
        majority=majority,
        majority_votes=majority_votes,
        majority_is_right=any(sample["answer"] == majority and sample["correct"] for sample in counted),
        majority_echoes_question=majority is not None and majority in question.casefold(),
        mean_tokens=round(sum(sample["tokens"] for sample in counted) / votes, 1),
    )


def select(
    votes: Iterable[Vote], right: int = RIGHT_QUESTIONS, confidently_wrong: int = CONFIDENTLY_WRONG_QUESTIONS
) -> list[Vote]:
    """The chosen votes, most certain first.

    Of the right ones, those nearest to points spread evenly from the least to the greatest certainty; of the wrong
    ones, the most certain that do not merely echo the question. Ties go to the smaller id.
    """
    ordered = sorted(votes, key=lambda one: (-one.certainty, one.question_id))
    wrong = [one for one in ordered if not one.majority_is_right and not one.majority_echoes_question]
    wrong = [one for one in wrong if one.majority is not None]
    chosen = spread([one for one in ordered if one.majority_is_right], right) + wrong[:confidently_wrong]
    return sorted(chosen, key=lambda one: (-one.certainty, one.question_id))


def spread(ordered: Sequence[Vote], count: int) -> list[Vote]:
    """Of votes sorted by falling certainty, `count` whose certainties are spread as evenly as they allow."""
    if len(ordered) <= count or count < 2:
        return list(ordered[:count])
    left = list(ordered)
    high, low = left[0].certainty, left[-1].certainty
    chosen = []
    for step in range(count):
        wanted = high - (high - low) * step / (count - 1)
        nearest = min(left, key=lambda one: abs(one.certainty - wanted))
        left.remove(nearest)
        chosen.append(nearest)
    return chosen


def read_votes(trace: Path) -> list[Vote]:
    """The vote of every record in a trace."""
    with gzip.open(trace, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [vote(record["question_id"], record["question"], record["samples"]) for record in records]


def table(votes: Iterable[Vote], chosen: Iterable[Vote] = ()) -> str:
    """The votes as text, the chosen ones marked."""
    marked = {one.question_id for one in chosen}
    rows = [f"  {'question':28} {'certainty':>9} {'votes':>5}  {'tokens':>6}  majority"]
    rows.extend(
        f"{'*' if one.question_id in marked else ' '} {one.question_id:28} {one.certainty:9.3f} "
        f"{one.majority_votes:2}/{VOTES}  {one.mean_tokens:6.1f}  "
        f"{'right' if one.majority_is_right else f'WRONG: {one.majority}'}"
        for one in sorted(votes, key=lambda one: (-one.certainty, one.question_id))
    )
    return "\n".join(rows)


def write_bundled(chosen: Iterable[Vote], candidates: Path, out: Path) -> None:
    """Writes the chosen questions with what the model made of them, in the order given."""
    questions = {question.id: question for question in read_questions(candidates)}
    lines = []
    for one in chosen:
        question = questions[one.question_id]
        fields = {
            **asdict(question),
            "certainty": one.certainty,
            "majority": question.gold if one.majority_is_right else one.majority,
            "majority_is_right": one.majority_is_right,
        }
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    out.write_text("".join(lines), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Entry of `python -m dynasor_serve.local.questions.selection`."""
    parser = argparse.ArgumentParser(prog="python -m dynasor_serve.local.questions.selection")
    parser.add_argument("--trace", type=Path, default=SHORT_ANSWER_TRACE, help="recorded answers to the candidates")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="question file to write")
    options = parser.parse_args(arguments)
    votes = read_votes(options.trace)
    chosen = select(votes)
    write_bundled(chosen, CANDIDATES, options.out)
    print(table(votes, chosen))
    right = sum(one.majority_is_right for one in votes)
    print(
        f"\n{len(chosen)} of {len(votes)} chosen (*); the majority of {VOTES} is right on {right} of all, and on "
        f"{sum(one.majority_is_right for one in chosen)} of the chosen"
    )


if __name__ == "__main__":
    main()

"""Asks a real engine every question many times and writes what it answers as a trace.

    python -m dynasor_serve.local.questions.record --base-url http://127.0.0.1:8000 --model smollm2-135m \\
        --style short-answer --samples 32 --out trace.jsonl.gz

One JSON object per question, in the project's trace format, with the exact `prompt`, the `question`, its `answer_type`
and how it was sampled, and for each sample the raw `text`, `finish_reason` and the tokens' log-probabilities beside
`answer`, `correct`, `tokens`, `in_tokens` and `time_s`. Answers are read and compared by `certaindex.answers`, as in
live programs. Each sample is a request of its own, in the order of asking, and none carries a seed: on a CPU a seed
ends vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

import aiohttp

from dynasor_serve.certaindex.answers import AnswerType, canonical, extract
from dynasor_serve.local.questions.prompts import STYLES, PromptStyle
from dynasor_serve.local.questions.question_set import ARITHMETIC, CANDIDATES, Question, read_questions

GOLD = "=gold"
REQUEST_TIMEOUT_SECONDS = 900.0
"""For one sample, its wait for a place in the engine included."""
QUESTIONS_OF_STYLE = {"short-answer": CANDIDATES, "step-by-step": ARITHMETIC}


class SampleFields(TypedDict):
    """One answer in a record."""

    answer: str | None
    correct: bool
    tokens: int
    in_tokens: int
    time_s: float
    finished: bool
    finish_reason: str
    text: str
    token_logprobs: list[float]


class RecordFields(TypedDict):
    """One question with its answers: a line of the trace."""

    dataset: str
    model: str
    question_id: str
    question: str
    gold: str
    answer_type: str
    tokens_kind: str
    endpoint: str
    prompt: str
    sampling: dict[str, float | int | list[str]]
    concurrency: int
    samples: list[SampleFields]


def answer_key(text: str, answer_type: AnswerType) -> str | None:
    """The canonical answer in a completion, or None where there is none."""
    answer = extract(text, answer_type)
    return None if answer is None else canonical(answer, answer_type).key


def judged(text: str, question: Question) -> tuple[str | None, bool]:
    """The answer as the trace format writes it, and whether it is right."""
    key = answer_key(text, question.answer_type)
    correct = key is not None and key == canonical(question.gold, question.answer_type).key
    return (GOLD if correct else key), correct


async def ask(
    session: aiohttp.ClientSession, url: str, model: str, style: PromptStyle, question: Question
) -> SampleFields:
    """One sample of one question."""
    body = {
        "model": model,
        "prompt": style.prompt(question.question),
        "max_tokens": style.max_tokens,
        "temperature": style.temperature,
        "stop": list(style.stop),
        "logprobs": 0,
    }
    started = time.perf_counter()
    async with session.post(f"{url}/v1/completions", json=body) as response:
        reply = await response.json()
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status} to {question.id!r}: {reply}")
    choice, usage = reply["choices"][0], reply["usage"]
    answer, correct = judged(choice["text"], question)
    return SampleFields(
        answer=answer,
        correct=correct,
        tokens=usage["completion_tokens"],
        in_tokens=usage["prompt_tokens"],
        time_s=round(time.perf_counter() - started, 3),
        finished=choice["finish_reason"] == "stop",
        finish_reason=choice["finish_reason"],
        text=choice["text"],
        token_logprobs=[round(value, 3) for value in choice["logprobs"]["token_logprobs"]],
    )


async def record(
    questions: Iterable[Question],
    *,
    base_url: str,
    model: str,
    style: PromptStyle,
    samples: int,
    concurrency: int,
    report: Callable[[str], None],
) -> list[RecordFields]:
    """Every question's answers, questions in their order and samples in the order in which they were asked for.

    Args:
        questions: What to ask.
        base_url: Root of an OpenAI-compatible server, without `/v1`.
        model: The served model's name.
        style: How to ask.
        samples: Answers to each question.
        concurrency: Requests under way at once.
        report: Takes a line of progress per question.

    Raises:
        RuntimeError: The engine refused a request.
    """
    slots = asyncio.Semaphore(concurrency)
    url = base_url.rstrip("/").removesuffix("/v1")

    async def sample(session: aiohttp.ClientSession, question: Question) -> SampleFields:
        async with slots:
            return await ask(session, url, model, style, question)

    async def all_samples(session: aiohttp.ClientSession, question: Question) -> RecordFields:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sample(session, question)) for _ in range(samples)]
        found = [task.result() for task in tasks]
        report(f"{question.id}: {sum(one['correct'] for one in found)} of {samples} right")
        return RecordFields(
            dataset=f"dynasor-{style.name}",
            model=model,
            question_id=question.id,
            question=question.question,
            gold=question.gold,
            answer_type=str(question.answer_type),
            tokens_kind="exact_usage",
            endpoint="completions",
            prompt=style.prompt(question.question),
            sampling={"temperature": style.temperature, "max_tokens": style.max_tokens, "stop": list(style.stop)},
            concurrency=concurrency,
            samples=found,
        )

    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(all_samples(session, question)) for question in questions]
    return [task.result() for task in tasks]


def rejudged(records: Iterable[RecordFields], questions: Iterable[Question], style: PromptStyle) -> list[RecordFields]:
    """The records of these questions with every answer read again from its text: golds or reading have changed.

    Raises:
        ValueError: A question has no record, or its record was asked in other words: record it again.
    """
    recorded = {entry["question_id"]: entry for entry in records}
    result = []
    for question in questions:
        entry = recorded.get(question.id)
        if entry is None or entry["prompt"] != style.prompt(question.question):
            raise ValueError(f"{question.id} has no answers recorded to its present prompt: record it again")
        entry["gold"], entry["answer_type"] = question.gold, str(question.answer_type)
        for one in entry["samples"]:
            one["answer"], one["correct"] = judged(one["text"], question)
        result.append(entry)
    return result


def read_trace(path: Path) -> list[RecordFields]:
    """The records of a file that `write_trace` wrote."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def write_trace(records: Iterable[RecordFields], path: Path) -> None:
    """Writes gzip JSON Lines; equal records give equal bytes."""
    lines = "".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))


def main(arguments: list[str] | None = None) -> None:
    """Entry of `python -m dynasor_serve.local.questions.record`."""
    parser = argparse.ArgumentParser(prog="python -m dynasor_serve.local.questions.record", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--base-url", help="root of the engine, such as http://127.0.0.1:8000")
    source.add_argument("--rejudge", action="store_true", help="ask nobody; read the answers in --out again")
    parser.add_argument("--model", default="smollm2-135m", help="the served model's name; it is written into the trace")
    parser.add_argument("--style", choices=sorted(STYLES), default="short-answer", help="how the questions are asked")
    parser.add_argument("--questions", type=Path, help="question file; without one, the style's own")
    parser.add_argument("--samples", type=int, default=16, help="answers to each question")
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at once")
    parser.add_argument("--out", type=Path, required=True, help="the trace to write (.jsonl.gz)")
    chosen = parser.parse_args(arguments)
    questions, style = read_questions(chosen.questions or QUESTIONS_OF_STYLE[chosen.style]), STYLES[chosen.style]
    if chosen.rejudge:
        write_trace(rejudged(read_trace(chosen.out), questions, style), chosen.out)
        return
    records = asyncio.run(
        record(
            questions,
            base_url=chosen.base_url,
            model=chosen.model,
            style=style,
            samples=chosen.samples,
            concurrency=chosen.concurrency,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    write_trace(records, chosen.out)


if __name__ == "__main__":
    main()

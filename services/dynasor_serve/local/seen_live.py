"""The page that shows every algorithm and every rule at work on a real model: what is asked, and how it is shown.

    python -m dynasor_serve.local.seen_live questions > seen-live.jsonl       # lines for `dynasor batch`
    python -m dynasor_serve.local.seen_live page results.jsonl > docs/seen-live.md

`make seen-live` does both against a running `make up`. The questions are every n-th of the word problems, and short
ones for the rules that need a sure model; they were not chosen by their results. The settings of four rules were:
consensus-window, trial-confidence, confidence-prune and reward-threshold never fired at the first ones tried.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynasor_serve.local.questions.prompts import PARTED_STEPS, SHORT_ANSWER, STEP_BY_STEP, PromptStyle
from dynasor_serve.local.questions.question_set import BUNDLED, WORD_PROBLEMS, Question, read_questions

_QUESTIONS = 20
_STRIDE = 6
_TEMPERATURE = 0.5

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Show:
    """One program or rule that is shown.

    Attributes:
        title: of its section.
        algorithm, rule, chain_rule: type strings.
        style: how its questions are asked.
        cap: units that it would spend without its rule; 0 where that cannot be seen.
    """

    title: str
    algorithm: str
    rule: str
    style: PromptStyle = STEP_BY_STEP
    chain_rule: str = ""
    cap: int = 0


_EVERY_16 = "consensus-window:window=3,interval=16"
ALGORITHMS = (
    Show("self-consistency", "self-consistency:max_samples=8,width=4", "beta-posterior:confidence=0.9"),
    Show(
        "self-consistency of chains", "self-consistency:max_samples=3,width=3", "majority-locked", chain_rule=_EVERY_16
    ),
    Show("chain-of-thought", "chain-of-thought", _EVERY_16),
    Show("iterative-cot", "iterative-cot:max_rounds=3", "consensus-window:window=2"),
    Show("best-of-n", "best-of-n:max_samples=3,width=3", "reward-threshold:max=0.55,detect=2"),
    Show("rebase", "rebase:width=3,step_tokens=64", "static-threshold:threshold=0.5,detect=2", PARTED_STEPS),
    Show(
        "mcts",
        "mcts:rollouts=3,expansions=2,width=3,step_tokens=64",
        "static-threshold:threshold=0.9,detect=2 & reward-threshold:mean=0.4,detect=2",
        PARTED_STEPS,
    ),
)
_VOTE = "self-consistency:max_samples=8,width=2"
RULES = (
    Show("even", _VOTE, "even", SHORT_ANSWER, cap=8),
    Show("static-threshold", _VOTE, "static-threshold:threshold=0.7,detect=5", SHORT_ANSWER, cap=8),
    Show("n-step-threshold", _VOTE, "n-step-threshold:threshold=0.7,every=2", SHORT_ANSWER, cap=8),
    Show("beta-posterior", _VOTE, "beta-posterior:confidence=0.95", SHORT_ANSWER, cap=8),
    Show("majority-locked", _VOTE, "majority-locked", SHORT_ANSWER, cap=8),
    Show("m-of-n", _VOTE, "m-of-n:m=3", SHORT_ANSWER, cap=8),
    Show("m-of-n, out of reach", "self-consistency:max_samples=4,width=2", "m-of-n:m=5", SHORT_ANSWER, cap=4),
    Show("consensus-window", "chain-of-thought", "consensus-window:window=2,interval=16"),
    Show("trial-confidence", "chain-of-thought", "trial-confidence:threshold=0.6,repeats=1,interval=16"),
    Show(
        "confidence-prune",
        "self-consistency:max_samples=8,width=8",
        "confidence-prune:warmup=2,keep=50,window=8",
        cap=8,
    ),
    Show(
        "reward-threshold", "best-of-n:max_samples=4,width=2", "reward-threshold:max=0.44,detect=2", SHORT_ANSWER, cap=4
    ),
    Show(
        "both by &",
        "best-of-n:max_samples=4,width=2",
        "static-threshold:threshold=0.9,detect=2 & reward-threshold:mean=0.4,detect=2",
        SHORT_ANSWER,
        cap=4,
    ),
)
_RULE_QUESTIONS = 6


def questions() -> Iterator[Line]:
    """The lines of the batch."""
    problems = read_questions(WORD_PROBLEMS)
    for show in ALGORITHMS:
        for question in problems[::_STRIDE][:_QUESTIONS]:
            yield _line("algorithm", show, question)
    short = read_questions(BUNDLED)
    for show in RULES:
        chosen = short if show.style is SHORT_ANSWER else problems
        for question in chosen[:: max(1, len(chosen) // _RULE_QUESTIONS)][:_RULE_QUESTIONS]:
            yield _line("rule", show, question)


def page(results: Sequence[Line]) -> Iterator[str]:
    """The page in Markdown, a line at a time."""
    asked = {line["custom_id"]: line for line in questions()}
    told = {line["custom_id"]: line for line in results}
    models = {line["response"]["body"]["model"] for line in results if line["response"] and not line["error"]}
    yield "# Seen live"
    yield ""
    yield (
        f"Every algorithm and every rule on a real vLLM. The model is {', '.join(sorted(models))}, small and often "
        "wrong: what is shown is the machinery, not how good it is. Answers are compared with the gold answer; "
        "*tokens* are completion tokens of everything that was generated, probes and judgements included."
    )
    yield ""
    yield (
        "The rows are as recorded ([seen-live.jsonl](seen-live.jsonl)). Four rules (consensus-window, "
        "trial-confidence, confidence-prune, reward-threshold) fired on no question at the first settings tried; they "
        "were loosened, and their questions asked again, so that both sides of each rule can be seen. How often a rule "
        "fires here says nothing about how often it does elsewhere."
    )
    yield ""
    yield "## Algorithms"
    for show in ALGORITHMS:
        yield from _section(show, _rows(asked, told, "algorithm", show))
    yield ""
    yield "## Rules"
    yield ""
    yield f"Each rule on {_RULE_QUESTIONS} questions: the first that it stopped, and the first that it did not."
    yield ""
    yield "| rule | | question | answer | gold | why it ended | samples | tokens | prompts cached |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for show in RULES:
        rows = _rows(asked, told, "rule", show)
        for title, wanted in (("fired", True), ("did not fire", False)):
            row = next((row for row in rows if _fired(show, row[1]) is wanted), None)
            if row is not None:
                yield f"| `{show.rule}` | {title} | {_cells(*row)} |"
        count = sum(_fired(show, program) for _, program in rows)
        yield f"| | | it fired on {count} of {len(rows)} | | | | | | |"


def _section(show: Show, rows: list[tuple[Line, Line]]) -> Iterator[str]:
    right = sum(bool(program.get("correct")) for _, program in rows)
    tokens = sum(program["tokens_spent"] for _, program in rows)
    early = sum(program["stop_reason"].startswith("stop-") for _, program in rows)
    chains = f", chains by `{show.chain_rule}`" if show.chain_rule else ""
    yield ""
    yield f"### {show.title}"
    yield ""
    yield f"`{show.algorithm}`, rule `{show.rule}`{chains}, prompts {show.style.name}."
    yield f"{right} of {len(rows)} right, {early} stopped early, {tokens:,} tokens."
    yield ""
    yield "| question | answer | gold | why it ended | samples | tokens | prompts cached |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield f"| {_cells(*row)} |"


def _cells(question: Line, program: Line) -> str:
    probes = f" ({program['tokens_probes']} on probes)" if program["tokens_probes"] else ""
    cells = (
        question["body"]["dynasor"]["labels"]["question"],
        program["answer"] if program["answer"] is not None else "none",
        question["body"]["dynasor"]["gold"],
        f"{program['stop_reason']}: {program['stop_detail']}",
        program["samples"],
        f"{program['tokens_spent']}{probes}",
        program["cached"],
    )
    return " | ".join(" ".join(str(cell).replace("|", "\\|").split())[:160] for cell in cells)


def _fired(show: Show, program: Line) -> bool:
    """Whether the rule ended the program, or took branches from it."""
    pruned = bool(show.cap) and program["stop_reason"] == "cap" and program["samples"] < show.cap
    return program["stop_reason"] == "stop-certain" or pruned


def _rows(asked: dict[str, Line], told: dict[str, Line], kind: str, show: Show) -> list[tuple[Line, Line]]:
    """(line asked, how its program ended), in the order asked, without those that failed."""
    prefix = f"{kind}/{show.title}/"
    return [
        (line, _program(told[name]["response"]["body"]))
        for name, line in asked.items()
        if name.startswith(prefix) and name in told and told[name]["response"]
    ]


def _program(body: Line) -> Line:
    """How a program ended, with the share of its prompts that was cached."""
    usage = body["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"] / max(1, usage["prompt_tokens"])
    program: Line = body["dynasor"]
    return program | {"cached": f"{cached:.0%}"}


def _line(kind: str, show: Show, question: Question) -> Line:
    return {
        "custom_id": f"{kind}/{show.title}/{question.id}",
        "method": "POST",
        "url": "/v1/completions",
        "body": {
            "prompt": show.style.prompt(question.question),
            "max_tokens": show.style.max_tokens,
            "temperature": _TEMPERATURE,
            "stop": list(show.style.stop),
            "dynasor": {
                "algorithm": show.algorithm,
                "rule": show.rule,
                **({"chain_rule": show.chain_rule} if show.chain_rule else {}),
                "answer_type": question.answer_type.value,
                "gold": question.gold,
                "labels": {"question": question.question[:200]},
            },
        },
    }


def main(arguments: Sequence[str]) -> int:
    """Entry of `python -m dynasor_serve.local.seen_live`; returns the exit status."""
    match arguments:
        case ["questions"]:
            for line in questions():
                print(json.dumps(line, ensure_ascii=False))
        case ["page", results]:
            lines = Path(results).read_text(encoding="utf-8").splitlines()
            print("\n".join(page([json.loads(line) for line in lines])))
        case _:
            print("give `questions`, or `page RESULTS`", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

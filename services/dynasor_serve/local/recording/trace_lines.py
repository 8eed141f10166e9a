"""From a program's log to one line of the trace format. Pure.

The three kinds are those of the replay engine (`engines.replay.records`): `samples` of a vote, the `probes` of a chain,
the `steps` of a tree. Beside the fields that all recordings share, ours keep the texts, so that a replay says what was
said. Only programs that ran to their cap make a trace: a rule that stopped one would be in all that is learnt from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dynasor_serve.certaindex.answers import canonical
from dynasor_serve.engines.replay.records import GOLD
from dynasor_serve.local.questions.question_set import Question
from dynasor_serve.programs.chain_of_thought import ChainOfThought, ChainOfThoughtParameters
from dynasor_serve.programs.events import Accepted, CallFinished, Checkpointed, Finished, Probed, StopReason
from dynasor_serve.programs.program import Program, fold_log
from dynasor_serve.programs.rebase import Rebase, RebaseParameters
from dynasor_serve.programs.self_consistency import SelfConsistency, SelfConsistencyParameters
from dynasor_serve.programs.tree import Tree
from dynasor_serve.state.records import Record

Line = dict[str, Any]
_E = TypeVar("_E")

RECORDABLE = (SelfConsistencyParameters.name, ChainOfThoughtParameters.name, RebaseParameters.name)
"""Algorithms that have a trace format."""

_PROBE_FIELDS = ("token_position", "answer_index", "certain", "confidence", "probe_out_tokens")


class NotRecordable(ValueError):
    """A program that makes no trace."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was asked."""

    dataset: str
    question: Question
    records: Sequence[Record]  # the whole log
    run_id: str
    seed: int = 0  # tells programs of one question apart


def check_recordable(algorithm: str) -> None:
    """Raises `NotRecordable` for an algorithm, by its name, whose programs make no trace."""
    if algorithm not in RECORDABLE:
        *others, last = RECORDABLE
        raise NotRecordable(f"{algorithm} has no trace format; record {', '.join(others)} or {last}")


def trace_line(recorded: Recorded) -> Line:
    """The line that a program makes.

    Raises:
        NotRecordable: it did not run to its cap, or its algorithm has no trace format.
    """
    program = fold_log(record.event for record in recorded.records)
    last = recorded.records[-1].event
    if not isinstance(last, Finished) or last.outcome.stop_reason is not StopReason.CAP:
        how = last.outcome.stop_detail if isinstance(last, Finished) else "not final"
        raise NotRecordable(f"{recorded.question.id}: {how}; only programs that ran to their cap make a trace")
    algorithm = program.algorithm
    if isinstance(algorithm, SelfConsistency) and algorithm.chain_shape is None:
        return _head(recorded, program) | _samples(recorded)
    if isinstance(algorithm, ChainOfThought):
        return _head(recorded, program) | _chain(recorded)
    if isinstance(algorithm, Rebase):
        return _head(recorded, program) | _tree(recorded, algorithm.tree)
    check_recordable(program.query.algorithm.partition(":")[0])
    raise NotRecordable("chains that vote have no trace format; record self-consistency without a rule for chains")


def _head(recorded: Recorded, program: Program) -> Line:
    query, question = program.query, recorded.question
    sampling = query.sampling
    return {
        "dataset": recorded.dataset,
        "model": query.model,
        "run_id": recorded.run_id,
        "question_id": question.id,
        "question": question.question,
        "gold": question.gold,
        "answer_type": question.answer_type.value,
        "prompt": query.prompt if query.prompt is not None else query.messages[-1].content,
        "method": query.algorithm,
        "sampling": {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop),
        },
    }


def _samples(recorded: Recorded) -> Line:
    finished = sorted(_events(recorded, CallFinished), key=lambda event: event.branch)
    return {"tokens_kind": "exact_usage", "samples": [_sample(recorded.question, event) for event in finished]}


def _sample(question: Question, event: CallFinished) -> Line:
    return {
        **_judged(question, event.answer),
        "tokens": event.tokens,
        "in_tokens": event.prompt_tokens,
        "finished": event.finish_reason != "length",
        "text": event.text,
    }


def _chain(recorded: Recorded) -> Line:
    checkpoints = list(_events(recorded, Checkpointed))
    ends = _events(recorded, CallFinished)
    if not ends or ends[0].branch:
        raise NotRecordable(f"{recorded.question.id}: its thinking never came to an end")
    end, conclusion = ends[0], ends[-1]  # the same, but for a chain that was cut and asked for its answer
    text, positions = "", []
    for checkpoint in checkpoints:
        text += checkpoint.text
        positions.append((checkpoint.position, len(text)))
    text += end.text
    tokens = (checkpoints[-1].position if checkpoints else 0) + end.tokens
    if end.tokens:
        positions.append((tokens, len(text)))
    probes = list(_events(recorded, Probed))
    # Probes of one chain have a confidence or, from an engine without log-probabilities, none of them has.
    fields = (
        _PROBE_FIELDS
        if all(probe.confidence is not None for probe in probes)
        else _PROBE_FIELDS[:3] + _PROBE_FIELDS[4:]
    )
    answers = list(dict.fromkeys(probe.answer or "" for probe in probes))
    keys = [_key(recorded.question, answer or None) for answer in answers]
    clusters = list(dict.fromkeys(keys))
    rows = [
        {
            "token_position": probe.position,
            "answer_index": answers.index(probe.answer or ""),
            "certain": int(not probe.is_hesitant),
            "confidence": None if probe.confidence is None else round(probe.confidence, 6),
            "probe_out_tokens": probe.tokens,
        }
        for probe in probes
    ]
    final = _judged(recorded.question, conclusion.answer)
    accepted = recorded.records[0].event
    assert isinstance(accepted, Accepted)
    return {
        "seed": recorded.seed,
        "budget": accepted.query.sampling.max_tokens,
        "tokens": tokens,
        "finished": end.finish_reason != "length",
        "wall_s": round((recorded.records[-1].time_ms - recorded.records[0].time_ms) / 1000, 3),
        "final_answer": final["answer"],
        "final_correct": final["correct"],
        "answers": answers,
        "answer_correct": [_is_correct(recorded.question, answer or None) for answer in answers],
        "answer_cluster": [clusters.index(key) for key in keys],
        "probe_fields": list(fields),
        "probes": [[row[field] for field in fields] for row in rows],
        "text": text,
        "text_positions": positions,
    }


def _tree(recorded: Recorded, tree: Tree) -> Line:
    """By depth; `parent` counts among the nodes of the depth before that have children."""
    said = [number for number, node in enumerate(tree.nodes) if node.text is not None]
    parents = {tree.nodes[number].parent for number in said}
    by_depth: dict[int, list[int]] = {}
    for number in said:
        by_depth.setdefault(tree.nodes[number].depth, []).append(number)
    steps: list[Line] = []
    selected: dict[int | None, int] = {None: 0}
    for depth, numbers in sorted(by_depth.items()):
        steps.append(
            {"step": depth - 1, "candidates": [_candidate(tree, number, selected, parents) for number in numbers]}
        )
        expanded = [number for number in numbers if number in parents]
        selected = {number: place for place, number in enumerate(expanded)}
    complete = [number for number in said if tree.nodes[number].is_complete]
    return {
        "value_max": 1.0,
        "steps": steps,
        "final": [
            {"y": tree.path(number), **_judged(recorded.question, tree.nodes[number].answer)} for number in complete
        ],
    }


def _candidate(tree: Tree, number: int, selected: dict[int | None, int], parents: set[int | None]) -> Line:
    node = tree.nodes[number]
    return {
        "thought": node.text,
        "parent": selected[node.parent],
        "value": round(node.reward, 6) if node.reward is not None else None,
        "selected": number in parents,
        "tokens": node.tokens - tree.tokens(node.parent),
        **({"answer": node.answer} if node.is_complete and node.answer is not None else {}),
    }


def _judged(question: Question, answer: str | None) -> Line:
    """An answer as the trace format writes it, and whether it is right."""
    correct = _is_correct(question, answer)
    return {"answer": GOLD if correct else _key(question, answer), "correct": correct}


def _is_correct(question: Question, answer: str | None) -> bool:
    key = _key(question, answer)
    return key is not None and key == canonical(question.gold, question.answer_type).key


def _key(question: Question, answer: str | None) -> str | None:
    return None if answer is None else canonical(answer, question.answer_type).key or None


def _events(recorded: Recorded, kind: type[_E]) -> list[_E]:
    return [record.event for record in recorded.records if isinstance(record.event, kind)]

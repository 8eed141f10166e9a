"""Chains of thought that no model produced: the fixture's, and longer ones made for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb

CHAINS = Path(__file__).parent / "traces" / "synthetic-chains.jsonl"
TREES = CHAINS.with_name("synthetic-trees.jsonl")


def asking_chain(
    question: str, algorithm: str = "chain-of-thought", *, rule: str = "", chain_rule: str = "", **fields: Any
) -> pb.Query:
    """A query that is answered by a recorded chain."""
    marker = question if "/" in question else f"synthetic-chains/{question}"
    message = pb.ChatMessage(role="user", content=f"Think, then answer. [[trace:{marker}]]")
    defaults = {
        "chat": pb.Chat(messages=[message]),
        "answer_type": "math",
        "algorithm": pb.Algorithm(type_string=algorithm),
        "policy": pb.Policy(rule=rule, chain_rule=chain_rule),
        "sampling": pb.SamplingParameters(max_tokens=6000),
    }
    return pb.Query(**{**defaults, **fields})


def write_wandering_chain(path: Path, *, tokens: int, interval: int) -> str:
    """Writes a trace of one long chain whose probes never agree; returns its question."""
    positions = range(interval, tokens, interval)
    answers = [str(1000 + number) for number, _ in enumerate(positions)]
    record = {
        "dataset": "synthetic-chains",
        "model": "replay-model",
        "source": "synthetic-1",
        "question_id": "wandering",
        "gold": "7",
        "seed": 0,
        "budget": tokens,
        "tokens": tokens,
        "finished": True,
        "final_answer": "=gold",
        "final_correct": True,
        "answers": answers,
        "answer_correct": [False] * len(answers),
        "answer_cluster": list(range(len(answers))),
        "probe_fields": ["token_position", "answer_index", "certain", "probe_out_tokens"],
        "probes": [[position, number, 1, 4] for number, position in enumerate(positions)],
    }
    path.write_text(json.dumps(record) + "\n")
    return "wandering"

"""What people and scripts are shown of a query. Pure: from a `Standing` to text or to plain JSON values."""

from __future__ import annotations

import json
from typing import TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.standing import PHASES, Standing

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

NO_ANSWER = "(no answer)"
_STOPPED = {
    "stop-certain": "stopped early, certain",
    "stop-unpromising": "stopped early, unpromising",
    "stop-budget": "stopped at its token budget",
    "stop-deadline": "stopped at its deadline",
    "cap": "spent its cap",
    "cancelled": "cancelled",
    "failed": "failed",
}
_MOST_VOTES_SHOWN = 4


def query_json(standing: Standing) -> dict[str, Json]:
    """The fixed keys of a query; those that only its end brings are null before it. `error` only where it failed."""
    outcome = standing.outcome
    fields: dict[str, Json] = {
        "query_id": standing.query_id,
        "phase": standing.phase,
        "answer": (outcome.answer or None) if outcome else None,
        "certaindex": round(standing.certaindex, 6),
        "rule": outcome.rule if outcome else None,
        "stop_reason": outcome.stop_reason if outcome else None,
        "samples": standing.samples,
        "tokens_spent": standing.tokens,
        "tokens_saved": _saved_tokens(standing),
        "tokens_lost": outcome.ledger.tokens_lost if outcome else None,
        "latency_seconds": outcome.latency_seconds if outcome else None,
        "tokens_probes": outcome.ledger.tokens_probes if outcome else None,
        "prompt_tokens": outcome.ledger.prompt_tokens if outcome else None,
        "cached_prompt_tokens": outcome.ledger.cached_prompt_tokens if outcome else None,
    }
    if outcome is not None and outcome.HasField("error"):
        fields["error"] = {"reason": outcome.error.reason, "message": outcome.error.message}
    return fields


def refused_json(standing: Standing, failure: CommandFailed) -> dict[str, Json]:
    """The same keys where there is no outcome: the query was refused (it has no id), or the server is out of reach."""
    fields = query_json(standing)
    if not standing.query_id:
        fields["phase"] = "rejected"
    return fields | {"error": {"reason": failure.reason, "message": str(failure)}}


def one_line_json(value: Json) -> str:
    """JSON without line breaks; text stays readable."""
    return json.dumps(value, ensure_ascii=False)


def answer_text(standing: Standing) -> str:
    """The answer, safe for a terminal."""
    answer = standing.outcome.answer if standing.outcome else ""
    return printable(answer) if answer else NO_ANSWER


def ending_line(standing: Standing) -> str:
    """One line: why it stopped, what it cost and what that saved."""
    outcome = standing.outcome
    if outcome is None:
        return f"{standing.phase} after {plural(standing.samples, 'sample')}, {plural(standing.tokens, 'token')} so far"
    if outcome.HasField("error"):
        why = printable(f"failed: {outcome.error.reason}: {outcome.error.message}")
    else:
        why = _STOPPED.get(outcome.stop_reason, outcome.stop_reason)
        why += f": {printable(outcome.stop_detail)}" if outcome.stop_detail else ""
    cost = (
        f"{plural(outcome.samples, 'sample')}, {plural(outcome.ledger.tokens_spent, 'token')} spent{_parts(standing)}"
    )
    return f"{why} · {cost}{_saved(standing)} · {outcome.latency_seconds:.1f} s"


def _parts(standing: Standing) -> str:
    """What of the cost went into probes, and how much of the prompts was cached, where that says something."""
    assert standing.outcome is not None
    ledger = standing.outcome.ledger
    probes = f" ({ledger.tokens_probes:,} on {plural(standing.probes, 'probe')})" if ledger.tokens_probes else ""
    if not ledger.cached_prompt_tokens:
        return probes
    return f"{probes}, {ledger.cached_prompt_tokens / max(1, ledger.prompt_tokens):.0%} of prompts cached"


def stop_words(stop_reason: str) -> str:
    """A stop reason in words."""
    return _STOPPED.get(stop_reason, stop_reason)


def votes_text(standing: Standing, most: int = _MOST_VOTES_SHOWN) -> str:
    """The votes, largest first: `Paris ×5, Lyon ×1, 2 others`."""
    votes = standing.votes
    shown = [f"{shortened(answer, 24) if answer else NO_ANSWER} ×{count}" for answer, count in votes[:most]]
    left = len(votes) - most
    return ", ".join([*shown, plural(left, "other")] if left > 0 else shown)


def progress_line(standing: Standing) -> str:
    """Where a running query stands, in one line."""
    if standing.probes and not standing.samples:
        return f"certaindex {standing.certaindex:.2f} · probe {standing.probes}: {shortened(standing.last_probe, 80)}"
    if not standing.samples:
        waiting = "waiting for a tracker" if standing.phase in {"unknown", "queued"} else "waiting for the first sample"
        return f"{waiting}; {standing.last_failure}" if standing.failed_calls else waiting
    counts = f"{plural(standing.samples, 'sample')}, {plural(standing.tokens, 'token')}"
    votes = f" · votes: {votes_text(standing)}" if standing.votes else ""
    return f"certaindex {standing.certaindex:.2f} · {counts}{votes}"


def event_line(event: Json) -> str:
    """An event of `plain` in one line for a person."""
    assert isinstance(event, dict)
    kind = next(reversed(event))  # what happened is the last field
    details = event[kind]
    assert isinstance(details, dict)
    shown = " ".join(f"{key}={_brief(value)}" for key, value in details.items())
    return f"{event.get('sequence', 0):>4}  {event.get('time', '')}  {kind.replace('_', ' ')}  {shown}".rstrip()


def plain(message: Message) -> dict[str, Json]:
    """A protobuf message as plain values: numbers as numbers, times in ISO 8601, phases by name.

    What is unset is left out; a zero that means zero stays.
    """
    fields: dict[str, Json] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.enum_type is not None and field.enum_type.name == "QueryPhase":
            fields[field.name] = PHASES.get(value, "unknown")
        elif field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = dict(value)
        elif field.is_repeated:
            fields[field.name] = [_plain_value(each) for each in value]
        else:
            fields[field.name] = _plain_value(value)
    return fields


def printable(text: str) -> str:
    """Text of a model or a user without what a terminal would obey (escape sequences, control characters)."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)


def shortened(text: str, characters: int) -> str:
    """Text on one line of bounded length."""
    line = " ".join(printable(text).split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def plural(count: int, noun: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _saved_tokens(standing: Standing) -> int | None:
    """The estimate; None where there is none, before the end or because nobody can tell."""
    ledger = standing.outcome.ledger if standing.outcome is not None else None
    if ledger is None or not ledger.HasField("tokens_saved_estimate"):
        return None
    return ledger.tokens_saved_estimate


def _saved(standing: Standing) -> str:
    assert standing.outcome is not None
    saved = _saved_tokens(standing)
    if saved is None:
        return ""
    if saved > 0:
        return f", about {saved:,} saved (estimate: {saved / (saved + standing.tokens):.0%} of the cap)"
    return ", nothing saved" if saved == 0 else f", about {-saved:,} more than at the cap (estimate)"


def _plain_value(value: object) -> Json:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return plain(value)
    assert isinstance(value, str | int | float | bool)
    return value


def _brief(value: Json) -> str:
    return shortened(value, 60) if isinstance(value, str) else shortened(one_line_json(value), 200)

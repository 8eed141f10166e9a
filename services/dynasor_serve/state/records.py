"""Program events as they lie in Redis: JSON, one record each, with a version for rolling upgrades.

A record also carries what readers would else have to fold for: the samples and the Certaindex after its event.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dynasor_serve.programs import events
from dynasor_serve.programs.events import Event

VERSION = 3  # 1 named one algorithm only; by 2 a spent budget left no tokens for an answer

_TYPES: dict[str, type[Event]] = {
    "accepted": events.Accepted,
    "claimed": events.Claimed,
    "call-finished": events.CallFinished,
    "call-failed": events.CallFailed,
    "call-cancelled": events.CallCancelled,
    "checkpointed": events.Checkpointed,
    "probed": events.Probed,
    "rewarded": events.Rewarded,
    "answers-compared": events.AnswersCompared,
    "cancel-requested": events.CancelRequested,
    "deadline-reached": events.DeadlineReached,
    "budget-reached": events.BudgetReached,
    "finished": events.Finished,
}
_NAMES = {event_type: name for name, event_type in _TYPES.items()}


class CorruptRecord(ValueError):
    """A record that this version cannot read."""


class NewerRecord(CorruptRecord):
    """A record that a newer release wrote, and reads."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a program's log."""

    event: Event
    time_ms: int  # Unix milliseconds
    samples: int = 0  # that count after the event
    certaindex: float = 0.0  # after the event


class _Envelope(msgspec.Struct):
    version: int
    time_ms: int
    type: str
    event: msgspec.Raw
    samples: int = 0
    certaindex: float = 0.0


_encoder = msgspec.json.Encoder()
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_event_decoders = {name: msgspec.json.Decoder(event_type) for name, event_type in _TYPES.items()}


def encode(record: Record) -> bytes:
    """One line of JSON, without line breaks."""
    return _encoder.encode(
        _Envelope(
            version=VERSION,
            time_ms=record.time_ms,
            type=_NAMES[type(record.event)],
            event=msgspec.Raw(_encoder.encode(record.event)),
            samples=record.samples,
            certaindex=record.certaindex,
        )
    )


def decode(line: bytes) -> Record:
    """Raises `CorruptRecord` where the line is no record of a known version and type."""
    try:
        envelope = _envelope_decoder.decode(line)
        if envelope.version > VERSION:
            raise NewerRecord(f"record of version {envelope.version}; this release reads up to {VERSION}")
        event = _event_decoders[envelope.type].decode(envelope.event)
    except KeyError as error:
        raise CorruptRecord(f"record of unknown type {error}; known are {', '.join(_TYPES)}") from error
    except msgspec.MsgspecError as error:
        raise CorruptRecord(f"unreadable record {line[:120]!r}: {error}") from error
    return Record(event=event, time_ms=envelope.time_ms, samples=envelope.samples, certaindex=envelope.certaindex)

"""Logs: one JSON object per line on standard error, with what a line is about at its top level.

A process's `__main__` calls `configure_logging` once, before anything else; the rest of the code uses the standard
library: `logger.info("grant refused", extra={"query_id": query_id, "pool": pool})`. Whatever is in `extra` becomes a
field beside `message`, so that `jq 'select(.query_id == "…")'` finds a query's whole story across processes. The
message itself stays a constant string without values. Prompts and answers are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["json", "text"]


def configure_logging(process: str, level: str, log_format: LogFormat = "json", stream: TextIO | None = None) -> None:
    """Send this process's log to standard error, replacing whatever was configured before.

    Parameters:
        process: the process's name, in every line (`tracker`).
        level: the lowest level that is written: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`, in any case.
        log_format: `json` for machines, `text` for a person at a terminal.
        stream: where to write instead of standard error.

    Raises:
        ValueError: the level is not one of the five.
    """
    threshold = _level_number(level)
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(process) if log_format == "json" else TextFormatter(process))
    logging.basicConfig(level=threshold, handlers=[handler], force=True)
    logging.captureWarnings(True)


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: `time level process logger message`, the extras, and `exception` if there is one.

    The five keep their meaning: an extra of the same name is left out. A value that JSON has no form for becomes its
    `str`.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _time_of(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in _extras(record).items() if name not in fields}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A record for a person: `12:00:01.123 WARNING tracker  the message  query_id=q-1`, a traceback below it."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        time = _time_of(record).astimezone().strftime("%H:%M:%S.%f")[:-3]
        parts = [f"{time} {record.levelname:<7} {self._process:<9} {record.getMessage()}"]
        parts += [f"{name}={value}" for name, value in _extras(record).items()]
        line = "  ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _level_number(level: str) -> int:
    names = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    if level.upper() not in names:
        raise ValueError(f"log level {level!r} is unknown; the levels are {', '.join(names)}")
    return logging.getLevelNamesMapping()[level.upper()]


def _time_of(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


# Every attribute that logging itself puts on a record; the rest came in by `extra`.
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}

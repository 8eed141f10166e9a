"""The log: one JSON object per line, with what the line is about at its top level."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from dynasor_serve.telemetry.logs import configure_logging


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def logged(stream: io.StringIO) -> dict[str, object]:
    """The one line written, which must be one JSON object."""
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert isinstance(fields, dict)
    return fields


def test_extras_stand_at_the_top_level_of_a_json_line() -> None:
    stream = io.StringIO()
    configure_logging("tracker", "info", stream=stream)

    logging.getLogger("dynasor_serve.tracker").info(
        "call lost", extra={"query_id": "q-1", "pool": "small", "attempt": 2}
    )

    fields = logged(stream)
    assert datetime.fromisoformat(str(fields.pop("time"))).utcoffset() is not None, "times should name their zone"
    assert fields == {
        "level": "info",
        "process": "tracker",
        "logger": "dynasor_serve.tracker",
        "message": "call lost",
        "query_id": "q-1",
        "pool": "small",
        "attempt": 2,
    }


def test_a_message_with_line_breaks_and_a_traceback_stays_one_line() -> None:
    stream = io.StringIO()
    configure_logging("gateway", "INFO", stream=stream)

    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("failed\nhere")

    fields = logged(stream)
    assert fields["message"] == "failed\nhere"
    assert "ValueError: two" in str(fields["exception"])


def test_an_extra_cannot_change_what_the_five_fields_mean() -> None:
    stream = io.StringIO()
    configure_logging("gateway", "INFO", stream=stream)

    logging.getLogger("x").info("hello", extra={"level": "fatal", "time": "never"})

    fields = logged(stream)
    assert fields["level"] == "info"
    assert fields["time"] != "never"


def test_a_value_json_cannot_say_becomes_its_text() -> None:
    stream = io.StringIO()
    configure_logging("gateway", "INFO", stream=stream)

    logging.getLogger("x").info("hello", extra={"rules": {1}, "error": ValueError("bad")})

    fields = logged(stream)
    assert (fields["rules"], fields["error"]) == ("{1}", "bad")


def test_python_warnings_become_log_lines() -> None:
    stream = io.StringIO()
    configure_logging("gateway", "INFO", stream=stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old option", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)

    assert "old option" in str(logged(stream)["message"])


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging("gateway", "WARNING", stream=stream)

    logging.getLogger("x").info("quiet")

    assert stream.getvalue() == ""


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'loud' is unknown; the levels are DEBUG, INFO"):
        configure_logging("gateway", "loud")


def test_the_text_format_is_for_people() -> None:
    stream = io.StringIO()
    configure_logging("scheduler", "INFO", log_format="text", stream=stream)

    logging.getLogger("x").warning("worker gone", extra={"worker": "w-0"})

    assert stream.getvalue().split(maxsplit=1)[1] == "WARNING scheduler worker gone  worker=w-0\n"

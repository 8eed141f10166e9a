"""docs/errors.md lists every reason that leaves the system, with its status."""

from __future__ import annotations

import re
from pathlib import Path

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.rpc.errors import GRPC_CODES, Reason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()
REQUESTS, _, QUERIES = PAGE.partition("## Queries that fail")


def rows(part: str) -> dict[str, str]:
    """Reason -> second column."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", part, flags=re.MULTILINE))


def test_refusals_are_listed_with_their_status() -> None:
    assert rows(REQUESTS) == {reason.value: GRPC_CODES[reason].name for reason in Reason}


def test_engine_reasons_are_listed_with_whether_they_are_retried() -> None:
    listed = rows(QUERIES)
    expected = {reason.value: "yes" if EngineError(reason, "").is_retryable else "no" for reason in EngineReason}
    assert {reason: listed.get(reason) for reason in expected} == expected


def test_every_program_error_is_listed() -> None:
    sources = [*(ROOT / "services" / "dynasor_serve").glob("*/*.py")]
    used = {reason for path in sources for reason in re.findall(r'ProgramError\(\s*"([A-Z_]+)"', path.read_text())}
    assert used, "no ProgramError with a literal reason is found; has its spelling changed?"
    assert used <= rows(QUERIES).keys()


def test_every_listed_query_reason_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "services" / "dynasor_serve").glob("*/*.py"))
    assert [reason for reason in rows(QUERIES) if f'"{reason}"' not in sources] == []

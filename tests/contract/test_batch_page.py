"""`docs/batch.md` shows lines that work, and names every field and every error there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.batching.input_file import MAX_LINE_BYTES
from dynasor_serve.cli.batching.line_shape import BadLine, LineProblem
from dynasor_serve.cli.batching.lines import custom_id_of, question_of
from dynasor_serve.cli.batching.results import decoded

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
EXAMPLES = [line.encode() for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def known_fields(body: dict[str, object]) -> set[str]:
    """What a refusal of an unknown field says is known."""
    fields = {"custom_id": "q", "method": "POST", "url": "/v1/chat/completions", "body": body}
    try:
        question_of(json.dumps(fields).encode(), pb.Query())
    except BadLine as refusal:
        return set(str(refusal).partition("known are: ")[2].split(", "))
    raise AssertionError("the unknown field was accepted")


def row(where: str) -> set[str]:
    """The names in a row of the table of fields."""
    (found,) = re.findall(rf"^\| `{re.escape(where)}` \| (.*) \|$", PAGE, re.MULTILINE)
    return set(re.findall(r"`([a-z_]+)`", found))


def test_the_lines_that_it_shows_are_lines() -> None:
    *asked, answered = EXAMPLES

    assert [custom_id_of(line) for line in asked] == ["q1", "q2"]
    assert [question_of(line, pb.Query()).gold for line in asked] == ["391", None]
    result = decoded(answered)
    assert result is not None
    assert result.response is not None
    assert result.response.body.program.answer == "391"


def test_it_names_every_field() -> None:
    assert row("body") == known_fields({"?": 1}) - {"dynasor"} | {"prompt"}
    nested = {name for key in ("probe", "reward") for name in known_fields({"dynasor": {key: {"?": 1}}})}
    assert row("body.dynasor") == known_fields({"dynasor": {"?": 1}}) | nested


def test_it_names_every_problem_of_a_line_and_its_limit() -> None:
    assert re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE) == [problem.value for problem in LineProblem]
    assert f"{MAX_LINE_BYTES // 2**20} MiB" in PAGE

"""What README.md and examples/ show to a newcomer works as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from dynasor_serve.local.stack import LocalStack, ReplayOptions, StackOptions

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BUNDLED_TRACES = Path(str(files("dynasor_serve.local"))) / "questions" / "traces" / "smollm2-135m.jsonl.gz"


async def test_the_client_in_ten_lines_and_the_example_get_an_answer() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    async with LocalStack(StackOptions(ReplayOptions((BUNDLED_TRACES,)))) as stack:
        shown = await _output_of("-c", snippet.replace("127.0.0.1:7001", stack.gateway))
        example = await _output_of(str(ROOT / "examples" / "client.py"), stack.gateway)
    for output in (shown, example):
        assert 'answer: "42"' in output
        assert "QUERY_PHASE_SUCCEEDED" in output


def test_the_client_has_about_ten_lines() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in snippet.splitlines()) <= 10


def test_one_querys_journey_has_at_most_ten_links() -> None:
    journey = README.partition("## One query's journey")[2].partition("\n## ")[0]
    assert 1 <= len(re.findall(r"\]\(", journey)) <= 10


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert missing == []


async def _output_of(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()

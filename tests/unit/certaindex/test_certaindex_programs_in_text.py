"""Which program of a text is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers.code import last_program


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", None),
        ("", None),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```python\nx = 1\n```\nBetter:\n```python\nx = 2\n```", "x = 2"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1"),
        ("```python\nx = 1\n```\nRun it:\n```bash\npython x.py\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```py\nx = 1", "x = 1"),
        ("```Python3\nx = 1\ny = 2\n```", "x = 1\ny = 2"),
        ("1. so\n   ```python\n   x = 1\n   ```", "   x = 1"),
        ("```python\n```", None),
        ("```json\n{}\n```", None),
    ],
)
def test_blocks(text: str, code: str | None) -> None:
    assert last_program(text) == code


@given(
    st.text().filter(lambda code: "```" not in code and code.strip()),
    st.text().filter(lambda prose: "```" not in prose),
)
def test_a_block_is_found_whatever_is_around_it(code: str, prose: str) -> None:
    assert last_program(f"{prose}\n```python\n{code}\n```\n{prose}") == code

"""One stack per data directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynasor_serve.cli.data_directory import owned
from dynasor_serve.cli.failures import CommandFailed

_HOLD = """
import sys
from pathlib import Path
from dynasor_serve.cli.data_directory import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_owner_is_told_who_has_it(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(CommandFailed, match=f"process {os.getpid()}.*--data"), owned(tmp_path):
        pass


def test_the_lock_is_free_after_its_owner(tmp_path: Path) -> None:
    for _ in range(2):
        with owned(tmp_path / "new" / "directory"):
            pass


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CommandFailed, match=f"process {holder.pid}"), owned(tmp_path):
            pass
        holder.kill()
    with owned(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match="cannot keep state"), owned(tmp_path / "file"):
        pass

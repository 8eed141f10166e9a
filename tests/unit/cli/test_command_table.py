"""Commands are found by a table, so that one command does not import the others."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from dynasor_serve.cli.__main__ import MODULES, app_for


def commands_of(arguments: list[str]) -> list[str]:
    command = typer.main.get_command(app_for(arguments))
    return list(command.commands)  # type: ignore[attr-defined]


def test_the_table_names_every_command_in_the_order_of_the_help() -> None:
    assert commands_of([]) == list(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_named_command_is_there(name: str) -> None:
    assert name in commands_of([name])


@pytest.mark.parametrize("arguments", [["--help"], ["no-such-command"], ["-h", "run"]])
def test_without_a_named_command_all_are_there(arguments: list[str]) -> None:
    assert commands_of(arguments) == list(MODULES)


def test_asking_a_gateway_imports_no_stack() -> None:
    code = (
        "import sys; from dynasor_serve.cli.__main__ import app_for; app_for(['run']);"
        "print([name for name in ('aiohttp', 'dynasor_serve.local.stack') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.strip() == "[]"

"""`dynasor version`."""

from __future__ import annotations

from importlib.metadata import version as version_of

import typer

app = typer.Typer()


@app.command()
def version() -> None:
    """Print the version of this installation."""
    print(f"dynasor {version_of('dynasor-serve')}")

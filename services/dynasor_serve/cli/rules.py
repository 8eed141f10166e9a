"""`dynasor rules`: which stopping rules there are."""

from __future__ import annotations

from typing import Annotated

import typer

from dynasor_serve.certaindex.rules.registry import RuleEntry, rule_catalogue
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.cli.catalogue import parameter_fields, parameter_lines
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.presentation import Json, one_line_json

app = typer.Typer()


@app.command()
def rules(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False) -> None:
    """List the rules that `run --rule` takes, with their parameters, defaults and bounds."""
    try:
        catalogue = rule_catalogue()
    except InvalidRule as error:
        raise bad_input(str(error), "INVALID_RULE") from error
    if as_json:
        print(one_line_json([_fields(entry) for entry in catalogue]))
        return
    for entry in catalogue:
        print(f"{entry.example}\n    {entry.summary}\n    watches {', '.join(sorted(entry.watches))}")
        print(parameter_lines(entry.parameters))


def _fields(entry: RuleEntry) -> dict[str, Json]:
    return {
        "name": entry.name,
        "type_string": entry.example,
        "summary": entry.summary,
        "watches": [*sorted(entry.watches)],
        "parameters": parameter_fields(entry.parameters),
    }

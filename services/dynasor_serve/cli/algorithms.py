"""`dynasor algorithms`: which reasoning programs there are, with their knobs and defaults."""

from __future__ import annotations

from typing import Annotated

import typer

from dynasor_serve.cli.catalogue import parameter_fields, parameter_lines
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.presentation import Json, one_line_json
from dynasor_serve.programs.query import InvalidQuery
from dynasor_serve.programs.registry import AlgorithmEntry, algorithm_catalogue

app = typer.Typer()


@app.command()
def algorithms(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False) -> None:
    """List the algorithms that `run --algorithm` takes, with their knobs, parameters, defaults and bounds."""
    try:
        catalogue = algorithm_catalogue()
    except InvalidQuery as error:
        raise bad_input(str(error), "INVALID_QUERY") from error
    if as_json:
        print(one_line_json([_fields(entry) for entry in catalogue]))
        return
    for entry in catalogue:
        print(f"{entry.type_string}\n    {entry.summary}")
        print(f"    knob: {entry.knob}; rules watch its {entry.watches}; default rule: {_default_rule(entry)}")
        print(parameter_lines(entry.parameters))


def _default_rule(entry: AlgorithmEntry) -> str:
    return entry.default_rule or "the server's"


def _fields(entry: AlgorithmEntry) -> dict[str, Json]:
    return {
        "name": entry.name,
        "type_string": entry.type_string,
        "summary": entry.summary,
        "knob": entry.knob,
        "watches": entry.watches.value,
        "default_rule": entry.default_rule or None,
        "parameters": parameter_fields(entry.parameters),
    }

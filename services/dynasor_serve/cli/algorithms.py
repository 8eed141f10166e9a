"""`dynasor algorithms`: which reasoning programs there are, with their knobs and defaults."""

from __future__ import annotations

from typing import Annotated

import typer

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
        print(f"{_type_string(entry)}\n    {entry.summary}")
        print(f"    knob: {entry.knob}; rules watch its {entry.watches}; default rule: {_default_rule(entry)}")
        for each in entry.parameters:
            print(f"    {each.name:<14} {each.doc}; {each.bounds} [default: {each.default:g}]")
        print()


def _type_string(entry: AlgorithmEntry) -> str:
    settings = ",".join(f"{each.name}={each.default:g}" for each in entry.parameters)
    return f"{entry.name}:{settings}" if settings else entry.name


def _default_rule(entry: AlgorithmEntry) -> str:
    return entry.default_rule or "the server's"


def _fields(entry: AlgorithmEntry) -> dict[str, Json]:
    parameters: list[Json] = [
        {
            "name": each.name,
            "default": each.default,
            "minimum": each.minimum,
            "maximum": each.maximum,
            "doc": each.doc,
        }
        for each in entry.parameters
    ]
    return {
        "name": entry.name,
        "type_string": _type_string(entry),
        "summary": entry.summary,
        "knob": entry.knob,
        "watches": entry.watches.value,
        "default_rule": entry.default_rule or None,
        "parameters": parameters,
    }

"""How `dynasor rules` and `dynasor algorithms` show what parameters a type string takes."""

from __future__ import annotations

from collections.abc import Sequence

from dynasor_serve.certaindex.rules.parameters import Parameter
from dynasor_serve.cli.presentation import Json


def parameter_lines(parameters: Sequence[Parameter]) -> str:
    """A line for each, and an empty one behind them."""
    width = max((len(each.name) for each in parameters), default=0)
    lines = (
        f"    {each.name:<{width}}  {each.doc}; {each.bounds} [default: {each.written(each.default)}]"
        for each in parameters
    )
    return "".join(f"{line}\n" for line in lines)


def parameter_fields(parameters: Sequence[Parameter]) -> list[Json]:
    """The same as plain values; what is no number has no bounds and is written as in a type string."""
    return [
        {
            "name": each.name,
            "default": each.default if isinstance(each.default, int | float) else each.written(each.default),
            "minimum": each.range[0] if each.range else None,
            "maximum": each.range[1] if each.range else None,
            "bounds": each.bounds,
            "doc": each.doc,
        }
        for each in parameters
    ]

"""`dynasor profile`: which parameters would recorded programs have chosen for a policy?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynasor_serve.certaindex.labelled_runs import ProfileError
from dynasor_serve.certaindex.profiler import POLICIES, fit
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.presentation import Json, one_line_json
from dynasor_serve.engines.replay.traces import TraceFormatError
from dynasor_serve.simulation.labelling import labelled_votes

app = typer.Typer()


@app.command()
def profile(
    files: Annotated[list[Path], typer.Argument(help="Recorded votes, or directories of them, with what is right.")],
    policies: Annotated[list[str] | None, typer.Option("--policy", help=f"{', '.join(POLICIES)}; all if none.")] = None,
    cap: Annotated[
        int | None, typer.Option(min=2, help="Most samples of a vote.  [default: the fewest that a question has]")
    ] = None,
    detect: Annotated[int, typer.Option(min=1, help="Samples after which a policy looks first.")] = 5,
    every: Annotated[int, typer.Option(min=1, help="Samples between two looks of n-step-threshold.")] = 5,
    quantile: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the programs that a curve must leave enough samples.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the order of each question's samples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Fit allocation policies to recorded programs whose answers are known to be right or wrong.

    Prints type strings that --rule takes, everywhere. What is fitted holds for programs like these: score it on other
    questions, as `dynasor bench batch` does.
    """
    fitted: dict[str, Json] = {}
    try:
        runs = labelled_votes(files, cap=cap, seed=seed)
        for policy in policies or POLICIES:
            try:
                fitted[policy] = fit(policy, runs, detect=detect, every=every, quantile=quantile)
            except ProfileError:
                if policies:
                    raise
    except TraceFormatError as error:
        raise bad_input(str(error), "INVALID_TRACES") from error
    except ProfileError as error:
        raise bad_input(str(error), "INVALID_RUNS") from error
    if as_json:
        print(one_line_json({"programs": len(runs), "cap": runs[0].cap, "policies": fitted}))
        return
    print(f"fitted to {len(runs)} programs of {runs[0].cap} samples")
    for policy, type_string in fitted.items():
        print(f"  {policy:<18}{type_string}")

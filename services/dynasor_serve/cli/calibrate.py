"""`dynasor calibrate`: which thresholds keep an accuracy SLO on questions like the recorded ones?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dynasor_serve.certaindex.accuracy_policy import written_policy
from dynasor_serve.cli.calibration_study import show_study
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.presentation import Json, one_line_json
from dynasor_serve.engines.replay.traces import TraceFormatError
from dynasor_serve.simulation.calibration import Calibration, Step, calibrate
from dynasor_serve.simulation.calibration_questions import CalibrationError, CalibrationSettings

app = typer.Typer()


class References(StrEnum):
    """What a stopped program is compared with."""

    LABELS = "labels"
    FULL_PROGRAM = "full-program"


@app.command("calibrate")
def calibrate_command(
    files: Annotated[list[Path], typer.Argument(help="Recorded votes, or directories of them.")],
    out: Annotated[Path | None, typer.Option(help="Where the policy goes.")] = None,
    max_accuracy_loss: Annotated[
        float, typer.Option(help="Most mean net loss that is promised: 0.02 is two points.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(help="Of the promise.")] = 0.95,
    width: Annotated[int, typer.Option(min=1, help="Samples of a vote that run side by side.")] = 1,
    cap: Annotated[
        int | None, typer.Option(min=2, help="Samples of a vote.  [default: as many as most questions have]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Whose questions, where the files hold several models.")] = None,
    run: Annotated[str | None, typer.Option(help="Of which run: its id, method or effort.")] = None,
    reference: Annotated[
        References,
        typer.Option(
            help="labels: net loss of right answers; full-program: answers that differ from its, without labels."
        ),
    ] = References.LABELS,
    shuffles: Annotated[int, typer.Option(min=1, max=10_000, help="Random orders of each vote's samples.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the orders, and of the questions that order the path.")] = 0,
    is_study: Annotated[
        bool, typer.Option("--study", help="Show how often the promise holds, on sets drawn from each run's questions.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Choose the rule that saves most while it keeps an accuracy SLO, and write it as a policy.

    The promise: with the given confidence over the draw of these questions, the mean net loss on exchangeable new ones
    is at most the target. Too few questions are refused, with how many it would take.
    """
    settings = CalibrationSettings(
        target=max_accuracy_loss,
        confidence=confidence,
        width=width,
        cap=cap,
        model=model,
        run=run,
        reference=reference.value,
        shuffles=shuffles,
        seed=seed,
    )
    if (out is None) != is_study:
        raise bad_input("say where the policy goes: --out FILE, or give --study, which writes none")
    try:
        if out is None:
            show_study(files, settings, as_json=as_json)
            return
        found = calibrate(files, settings)
        _write(out, written_policy(found.policy))
    except TraceFormatError as error:
        raise bad_input(str(error), "INVALID_TRACES") from error
    except CalibrationError as error:
        raise bad_input(str(error), "NO_PROMISE") from error
    except OSError as error:
        raise bad_input(f"--out {out}: {error}") from error
    if as_json:
        print(one_line_json(_json(found)))
    else:
        print(_text(found))
        print(f"written to {out}")


def _write(out: Path, written: bytes) -> None:
    """The file appears whole or not at all."""
    partial = out.with_name(f"{out.name}.partial")
    partial.write_bytes(written)
    partial.replace(out)


def _json(found: Calibration) -> dict[str, Json]:
    return {
        "policy": msgspec.to_builtins(found.policy),
        "steps": [dict(step._asdict()) for step in found.steps],
        "next_needs_questions": found.next_needs,
    }


def _text(found: Calibration) -> str:
    policy, last = found.policy, found.steps[-1]
    asked = "net loss" if policy.reference == "labels" else "disagreement with the full program, not loss: no labels"
    lines = [
        f"{policy.model}: {', '.join(policy.datasets)}; {policy.cap} samples, {policy.width} at a time; "
        f"{policy.ordering_questions} questions order, {policy.testing_questions} test"
        + (f", {policy.left_out_questions} left out with fewer samples" if policy.left_out_questions else ""),
        f"promised with confidence {policy.confidence:g}: mean {asked}, at most {100 * policy.target:g} points",
        f"  {'certain':>8}{'unpromising':>13}{'loss':>8}{'bound':>8}{'harm:rescue':>13}{'saved':>9}",
        *(f"  {_cells(step)}" for step in found.steps),
        f"chosen: {policy.rule}",
    ]
    if not last.passed:
        needs = "no number of questions" if found.next_needs is None else f"about {found.next_needs:,} questions"
        lines.append(f"the last line did not pass: at these losses it takes {needs}")
    return "\n".join(lines)


def _cells(step: Step) -> str:
    """Loss and bound in points; the rule by its thresholds, which are what differs along the path."""
    settings = dict(each.partition("=")[::2] for each in step.rule.partition(":")[2].split(","))
    return (
        f"{settings.get('certain', step.rule):>8}{settings.get('unpromising', ''):>13}{100 * step.loss:>+8.2f}"
        f"{100 * step.bound:>+8.2f}{f'{step.harm:.1f}:{step.rescue:.1f}':>13}{step.saved_percent:>7.1f} %"
    )

"""`dynasor calibrate --study`: how often the promise holds, beside what it brings and what a naive choice would do."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.presentation import Json, one_line_json
from dynasor_serve.simulation.calibration_questions import CalibrationError, CalibrationSettings, every_run
from dynasor_serve.simulation.calibration_study import StudyRow, study


def show_study(files: Sequence[Path], settings: CalibrationSettings, *, as_json: bool) -> None:
    """Print the study of each run of the files, one row of JSON each or one table.

    Raises:
        TraceFormatError: a line is no record.
        CalibrationError: no run has questions that can be calibrated on.
        CommandFailed: the promise was broken more often than the confidence explains.
    """
    rows: list[StudyRow] = []
    refusals: list[CalibrationError] = []
    for number, questions in enumerate(every_run(files, settings)):
        if isinstance(questions, CalibrationError):
            refusals.append(questions)
        else:
            rows.extend(study(questions, seed=settings.seed + number))
    if not rows:
        raise refusals[0]
    if as_json:
        print(one_line_json({"rows": [_json(row) for row in rows], "runs_left_out": [*map(str, refusals)]}))
    else:
        print(_text(rows, settings))
        for refusal in refusals:
            print(f"a run is left out: {refusal}", file=sys.stderr)
    broken = sum(not row.is_valid for row in rows)
    if broken:
        raise CommandFailed(f"the promise is broken in {broken} of {len(rows)} rows", ExitCode.FAILED)


def _json(row: StudyRow) -> dict[str, Json]:
    return {**dataclasses.asdict(row), "is_valid": row.is_valid, "control_fails": row.control_fails}


def _text(rows: list[StudyRow], settings: CalibrationSettings) -> str:
    """A table per dataset, over its runs: the worst of what must not exceed, the mean of what it brings."""
    first = rows[0]
    allowed = f"at most {first.allowed:,} of them may exceed {100 * settings.target:g} points"
    lines = [f"{first.sets:,} sets each; {allowed} at a confidence of {settings.confidence:g}"]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        members = [row for row in rows if row.dataset == dataset]
        runs = len({(row.model, row.run) for row in members})
        questions = max(row.population_questions for row in members)
        lines.append(f"\n{dataset}: {questions} questions, {'one run' if runs == 1 else f'{runs} runs'}\n  {_HEADINGS}")
        panels = dict.fromkeys((row.population, row.questions) for row in members)
        lines.extend(
            f"  {_cells([row for row in members if (row.population, row.questions) == panel])}" for panel in panels
        )
    valid, failed = (sum(each) for each in zip(*((row.is_valid, row.control_fails) for row in rows), strict=True))
    lines.append(f"\nthe promise holds in {valid} of {len(rows)} rows; the control fails in {failed}")
    return "\n".join(lines)


_HEADINGS = (
    f"{'population':<11}{'n':>6}{'exceeded, worst run':>21}{'certified':>11}{'saved':>9}"
    f"{'control exceeded, least … most':>33}{'saved':>9}"
)


def _cells(rows: list[StudyRow]) -> str:
    control = [row.control_exceeded for row in rows]
    span = f"{control[0]:,}" if len(rows) == 1 else f"{min(control):,} … {max(control):,}"
    return (
        f"{rows[0].population:<11}{rows[0].questions:>6}{max(row.exceeded for row in rows):>21,}"
        f"{sum(row.certified_percent for row in rows) / len(rows):>9.1f} %"
        f"{sum(row.saved_percent for row in rows) / len(rows):>7.1f} %"
        f"{span:>33}{sum(row.control_saved_percent for row in rows) / len(rows):>7.1f} %"
    )

"""What a final program adds to the tracker's metrics and log, and how it ended as the scheduler sees it."""

from __future__ import annotations

import logging

from dynasor_serve.programs.events import Outcome, Phase, StopReason
from dynasor_serve.programs.program import Program
from dynasor_serve.programs.query import QueryId
from dynasor_serve.scheduling.demand import ProgramEnd
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


def report_outcome(query_id: QueryId, outcome: Outcome, metrics: Metrics) -> None:
    """Counts and logs one final program."""
    ledger = outcome.ledger
    rule = outcome.rule.partition(":")[0]
    metrics.increment(catalogue.VERDICTS, rule=rule, verdict=outcome.stop_reason.value)
    metrics.observe(catalogue.CERTAINDEX_AT_STOP, outcome.certaindex)
    saved = ledger.saved_estimate or 0
    for kind, tokens in (
        ("spent", ledger.spent),
        ("cancelled", ledger.cancelled),
        ("lost", ledger.lost),
        ("probes", ledger.probes),
        ("saved_estimate", max(0, saved)),
        ("exceeded_estimate", max(0, -saved)),
    ):
        metrics.increment(catalogue.TOKENS, tokens, kind=kind)
    logger.info(
        "a program is final",
        extra={
            "query_id": query_id,
            "phase": outcome.phase.value,
            "stop_reason": outcome.stop_reason.value,
            "samples": outcome.samples,
            "tokens_spent": ledger.spent,
            "tokens_saved_estimate": ledger.saved_estimate,
        },
    )


def program_end(program: Program, outcome: Outcome) -> ProgramEnd:
    """How a final program ended. One without an answer when its deadline came has failed, but for want of time."""
    reason = outcome.stop_reason if program.stop is None else program.stop.reason
    if reason is StopReason.STOP_DEADLINE:
        return ProgramEnd.DEADLINE
    if reason is StopReason.CANCELLED:
        return ProgramEnd.CANCELLED
    return ProgramEnd.FAILED if outcome.phase is Phase.FAILED else ProgramEnd.COMPLETED

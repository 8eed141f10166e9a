"""What a batch has come to so far, folded from its results. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dynasor_serve.cli.batching.results import Result
from dynasor_serve.cli.presentation import Json, plural

_EARLY = ("stop-certain", "stop-unpromising")


@dataclass(slots=True)
class Totals:
    """Sums over the results of a batch; tokens are completion tokens, of failed queries as well.

    Attributes:
        lines: of the input, blank ones left out.
        found: results that an earlier run left.
        retryable: errors that may pass.
        certaindex: the sum over answered queries.
        early: answered queries that a rule stopped.
        saving_known: queries whose saving somebody could estimate.
        saved_estimate, spent_where_known: over those queries.
        judged: queries with a gold answer that were worked to their end.
    """

    lines: int = 0
    found: int = 0
    answered: int = 0
    errors: int = 0
    retryable: int = 0
    queries: int = 0
    certaindex: float = 0.0
    early: int = 0
    tokens_spent: int = 0
    tokens_lost: int = 0
    tokens_probes: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    saving_known: int = 0
    saved_estimate: int = 0
    spent_where_known: int = 0
    judged: int = 0
    correct: int = 0

    @property
    def done(self) -> int:
        """Lines that have a result."""
        return self.answered + self.errors

    @property
    def mean_certaindex(self) -> float | None:
        """Over answered queries."""
        return self.certaindex / self.answered if self.answered else None

    @property
    def early_share(self) -> float | None:
        """The part of answered queries that a rule stopped."""
        return self.early / self.answered if self.answered else None

    @property
    def saving(self) -> float | None:
        """The part of the tokens at the cap that was saved, estimated; over queries whose saving is known."""
        at_cap = self.saved_estimate + self.spent_where_known
        return self.saved_estimate / at_cap if at_cap else None

    @property
    def accuracy(self) -> float | None:
        """The part of judged queries whose answer equals the gold one."""
        return self.correct / self.judged if self.judged else None

    def add(self, result: Result) -> None:
        """Counts one line's result."""
        if result.error is None:
            self.answered += 1
        else:
            self.errors += 1
            self.retryable += result.error.retryable
        if result.response is None:
            return
        program, usage = result.response.body.program, result.response.body.usage
        self.queries += 1
        if result.error is None:
            self.certaindex += program.certaindex
            self.early += program.stop_reason in _EARLY
        self.tokens_spent += program.tokens_spent
        self.tokens_lost += program.tokens_lost
        self.tokens_probes += program.tokens_probes
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.prompt_tokens_details.cached_tokens
        if program.tokens_saved_estimate is not None:
            self.saving_known += 1
            self.saved_estimate += program.tokens_saved_estimate
            self.spent_where_known += program.tokens_spent
        if isinstance(program.correct, bool):
            self.judged += 1
            self.correct += program.correct


def costs_text(totals: Totals) -> str:
    """What the answers have cost so far, in one line."""
    parts = []
    if totals.mean_certaindex is not None and totals.early_share is not None:
        parts.append(f"mean certaindex {totals.mean_certaindex:.2f}")
        parts.append(f"{totals.early_share:.0%} stopped early")
    parts.append(f"{plural(totals.tokens_spent, 'token')} spent")
    if totals.saving is not None:
        parts.append(f"{totals.saving:.0%} saved (estimate; {totals.saving_known:,} of {totals.queries:,} known)")
    if totals.errors:
        parts.append(plural(totals.errors, "error"))
    return " · ".join(parts)


def accuracy_text(totals: Totals) -> str:
    """How many answers are right; empty where no line has a gold answer."""
    if totals.accuracy is None:
        return ""
    return f"{totals.correct:,} of {totals.judged:,} answers equal the gold one: {totals.accuracy:.1%}"


def summary_json(totals: Totals, output: str | None, seconds: float) -> dict[str, Json]:
    """The whole as one object.

    Args:
        output: where the results are; None where they are not whole.
        seconds: that this run took.
    """
    return {
        "output": output,
        "lines": totals.lines,
        "answered": totals.answered,
        "errors": totals.errors,
        "errors_retryable": totals.retryable,
        "found_from_earlier_run": totals.found,
        "seconds": round(seconds, 3),
        "queries_per_second": round((totals.done - totals.found) / seconds, 3) if seconds > 0 else None,
        "mean_certaindex": _rounded(totals.mean_certaindex),
        "early_share": _rounded(totals.early_share),
        "tokens_spent": totals.tokens_spent,
        "tokens_lost": totals.tokens_lost,
        "tokens_probes": totals.tokens_probes,
        "prompt_tokens": totals.prompt_tokens,
        "cached_tokens": totals.cached_tokens,
        "tokens_saved_estimate": totals.saved_estimate if totals.saving_known else None,
        "saving": _rounded(totals.saving),
        "saving_known": totals.saving_known,
        "judged": totals.judged,
        "correct": totals.correct,
        "accuracy": _rounded(totals.accuracy),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

"""One program at its owner: folded ahead of its log, then made durable.

`take` folds an event at once and keeps its record; `write` appends what was kept, with the final record where the
program has stopped. When somebody else appended in between (a cancellation, or this very journal before a reply was
lost), the log comes first and the kept events are folded again behind it. Used by `driver`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from dynasor_serve.programs.events import Event, Outcome
from dynasor_serve.programs.program import Program, finish, fold, fold_log, with_cancelled
from dynasor_serve.programs.query import QueryId
from dynasor_serve.state.program_log import AppendStatus, Claim, Holding, ProgramLog
from dynasor_serve.state.records import Record
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.clock import unix_ms


def program_of(claim: Claim) -> Program:
    """The program that a claim's log makes. Takes about a second for some thousand records; safe in any thread.

    Raises:
        CorruptRecord, InvalidRule, ValueError: the log cannot be folded.
    """
    try:
        return fold_log(record.event for record in claim.records())
    except ValueError:
        raise
    except Exception as error:  # the log of a release that made other calls, or a rule of somebody's own
        raise ValueError(f"its log cannot be folded by this release, with these rules: {error!r}") from error


class Fenced(Exception):
    """The program is another tracker's, or final: nothing of this journal will ever be appended."""


class Journal:
    """The log of one claimed program.

    Attributes:
        program: the fold of all that has happened, durable or not.
        length: of the log in Redis, in records, as far as it is known here.
    """

    def __init__(self, claim: Claim, program: Program, log: ProgramLog, *, tracker: str, metrics: Metrics) -> None:
        """Builds the journal of a claim whose log makes `program` (`program_of`)."""
        self.query_id: QueryId = claim.query_id
        self.epoch = claim.epoch
        self.program = program
        self.length = len(claim.lines)
        self._log = log
        self._tracker = tracker
        self._metrics = metrics
        self._durable = self.program  # the fold of the log alone
        self._kept: list[Record] = []  # folded, not yet in the log
        self._is_behind = False

    @property
    def has_work(self) -> bool:
        """Whether `write` has something to do."""
        return bool(self._kept) or self._is_behind or self.program.stop is not None

    def take(self, event: Event) -> bool:
        """Folds an event. Returns whether it changed anything; a repetition does not."""
        folded = fold(self.program, event)
        if folded is self.program:
            return False
        self.program = folded
        assessment = folded.assessment
        self._kept.append(Record(event, unix_ms(), assessment.samples, assessment.certaindex))
        return True

    def mark_behind(self) -> None:
        """Somebody appended to the log: the next `write` reads it first."""
        self._is_behind = True

    def holding(self, running_tokens: int) -> Holding:
        """The program as its lease knows it.

        Args:
            running_tokens: completion tokens that no event has told of yet.
        """
        spent = self.program.ledger.spent
        return Holding(self.query_id, self.epoch, spent + running_tokens, self._durable.ledger.spent)

    async def write(self, running_tokens: int, cancelled: Iterable[tuple[int, int]]) -> Outcome | None:
        """Takes one step towards the log: reads it, appends what was kept, or ends the program.

        Args:
            running_tokens: completion tokens that running calls have generated, booked as lost if this tracker dies.
            cancelled: (completion, prompt) tokens of the calls that the verdict cancelled.

        Returns:
            The outcome once the program is final and that is durable; None while there may be more to do.

        Raises:
            Fenced: the program is no longer this tracker's.
            StateUnavailable, StateFull: nothing is known to have been written; call again.
        """
        if self._is_behind:
            self._is_behind = False
            try:
                newer = await self._log.read(self.query_id, self.length)
            except BaseException:
                self._is_behind = True
                raise
            self._rebase(newer)
            return None
        if self.program.stop is not None:
            return await self._end(cancelled)
        await self._append(running_tokens)
        return None

    async def _append(self, running_tokens: int) -> None:
        program, records = self.program, list(self._kept)
        began = time.perf_counter()
        spent = program.ledger.spent
        holding = Holding(self.query_id, self.epoch, spent + running_tokens, spent)
        reply = await self._log.append(holding, self._tracker, self.length, records)
        self._metrics.observe(catalogue.APPEND_SECONDS, time.perf_counter() - began)
        match reply.status:
            case AppendStatus.OK:
                del self._kept[: len(records)]
                self._durable, self.length = program, self.length + len(records)
            case AppendStatus.BEHIND:
                self._rebase(reply.newer)
            case AppendStatus.FENCED:
                raise Fenced

    async def _end(self, cancelled: Iterable[tuple[int, int]]) -> Outcome | None:
        program = self.program
        for tokens, prompt_tokens in cancelled:
            program = with_cancelled(program, tokens, prompt_tokens)
        now = unix_ms()
        final = finish(program, now)
        outcome = final.outcome
        records = [*self._kept, Record(final, now, outcome.samples, outcome.certaindex)]
        reply = await self._log.finish(
            Holding(self.query_id, self.epoch),
            self._tracker,
            program.query.tenant,
            self.length,
            records,
            outcome.phase,
        )
        match reply.status:
            case AppendStatus.OK:
                self.program = fold(program, final)
                return outcome
            case AppendStatus.BEHIND:
                self._rebase(reply.newer)
                return None
            case AppendStatus.FENCED:
                raise Fenced

    def _rebase(self, records: Iterable[Record]) -> None:
        """Folds what is in the log already, then once more what is not."""
        for record in records:
            self._durable = fold(self._durable, record.event)
            self.length += 1
        kept, self._kept, self.program = self._kept, [], self._durable
        for record in kept:
            self.take(record.event)

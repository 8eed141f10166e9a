"""One program's life at its tracker: what happens is folded, acted on, and made durable.

Every arrival goes the same way. `post` folds it at once (`journal`), so the verdict never waits for a hop: siblings
are cancelled (`gang`) before anything is awaited, which is safe because a cancelled call can only lose work. Then
`_act` states what is wanted next, and `_write_journal` makes the events durable; nobody sees an answer before that, and
a crash in between only repeats calls. `holdings` makes drivers from claims and ends them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dynasor_serve.programs.events import (
    AnswersCompared,
    BudgetReached,
    DeadlineReached,
    Event,
    Rewarded,
)
from dynasor_serve.programs.program import Directive, Program, directive
from dynasor_serve.programs.query import Branch, QueryId
from dynasor_serve.scheduling.demand import CallEnd, ProgramEnd
from dynasor_serve.state.program_log import Claim, Holding, ProgramLog
from dynasor_serve.state.redis_client import StateFull, StateUnavailable
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.clock import unix_ms
from dynasor_serve.tracker.equality import EqualityLink
from dynasor_serve.tracker.gang import Gang, GangTools
from dynasor_serve.tracker.granted_call import GrantedCall
from dynasor_serve.tracker.grants import SchedulerLink, Wanted
from dynasor_serve.tracker.journal import Fenced, Journal
from dynasor_serve.tracker.reporting import program_end, report_outcome
from dynasor_serve.tracker.verification import VerifierLink

logger = logging.getLogger(__name__)

_WRITE_RETRY_SECONDS = 0.25
_FULL_RETRY_SECONDS = 1.0
_DROPPED = "a program is dropped; its lease will lapse"


@dataclass(frozen=True, slots=True)
class DriverTools:
    """What every driver of a tracker works with."""

    tracker: str
    log: ProgramLog
    scheduler: SchedulerLink
    equality: EqualityLink
    verifier: VerifierLink
    metrics: Metrics
    gang: GangTools


class ProgramDriver:
    """Owns one claimed program until it is final, fenced or released."""

    def __init__(
        self, claim: Claim, program: Program, tools: DriverTools, on_end: Callable[[ProgramDriver], None]
    ) -> None:
        """Builds the driver of a claim whose log makes `program` (`journal.program_of`)."""
        self.query_id: QueryId = claim.query_id
        self.is_over = False
        self._journal = Journal(claim, program, tools.log, tracker=tools.tracker, metrics=tools.metrics)
        self.gang = Gang(
            claim.query_id,
            claim.epoch,
            self.program.query,
            tools.gang,
            post=self.post,
            kept_characters=lambda: self.program.text_characters,
            progressed=self._check_budget,
            rested=self._act,
        )
        self._tools = tools
        self._on_end = on_end
        self._directed: Program | None = None
        self._its_directive: Directive
        self._will_act = False
        self._writing: asyncio.Task[None] | None = None
        self._asked: set[tuple[str, str]] = set()  # pairs that the evaluator has been asked about
        self._to_verify: set[Branch] = set()  # whose texts the verifier has been asked about
        self._pools: dict[Branch, str] = {}  # where a call runs
        self._deadline: asyncio.TimerHandle | None = None
        self._lease: asyncio.TimerHandle | None = None

    @property
    def program(self) -> Program:
        """The program with all that has happened."""
        return self._journal.program

    @property
    def length(self) -> int:
        """Of its log, in records, as far as it is known here."""
        return self._journal.length

    @property
    def holding(self) -> Holding:
        """The program as its lease knows it."""
        return self._journal.holding(self.gang.running_tokens + sum(tokens for tokens, _ in self.gang.closed))

    def start(self) -> None:
        """Begins to work on the program. Raises whatever its algorithm does, which may be anybody's."""
        delay = max(0.0, (self.program.deadline_ms - unix_ms()) / 1000)
        self._deadline = asyncio.get_running_loop().call_later(delay, self.post, DeadlineReached())
        if self.program.stop is not None:
            self._kick()
        else:
            self._follow()

    def hold_until(self, when: float) -> None:
        """Its lease is good until then, by the loop's clock. A timer, because without Redis every call hangs."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = asyncio.get_running_loop().call_at(when, self.lose, "could not be renewed")

    def lose(self, how: str) -> None:
        """The lease is gone: nothing of the program may go on here."""
        self._log(f"a lease {how}")
        self._tools.metrics.increment(catalogue.LEASE_LOSSES)
        self.abandon()

    def post(self, event: Event) -> None:
        """Something happened. The verdict on it is reached here, and siblings are cancelled here."""
        if self.is_over or not self._taken(event):
            return
        if self.program.stop is not None:
            self.gang.close()
        elif not self._will_act:
            self._will_act = True  # once for all that arrives in this turn of the loop
            asyncio.get_running_loop().call_soon(self._act)
        self._kick()

    def catch_up(self) -> None:
        """Somebody appended to the log: read it."""
        if not self.is_over:
            self._journal.mark_behind()
            self._kick()

    def grant(self, granted: GrantedCall) -> None:
        """The scheduler lets one call start. A grant that no longer fits goes back."""
        branch = granted.branch
        fits = not self.is_over and self.program.stop is None and branch in self._wanted()
        if fits and self.gang.is_free(branch) and granted.attempt == self.gang.next_attempt(branch):
            self.gang.start(granted, self.program.algorithm.call(branch))
        else:
            self._tools.scheduler.ended(granted, CallEnd.NOT_STARTED, 0)

    def answers_compared(self, event: AnswersCompared) -> None:
        """The evaluator has decided pairs of this program."""
        self.post(event)

    def rewarded(self, event: Rewarded) -> None:
        """The verifier has judged a branch of this program."""
        self.post(event)

    def abandon(self) -> Holding:
        """The program is another tracker's, or is handed back: everything here ends without a trace.

        Returns the holding as it was, with what running calls and unwritten evidence had cost.
        """
        holding = self.holding
        self.gang.close()
        self._end(ProgramEnd.RELEASED)
        return holding

    # --- from event to log ---

    def _taken(self, event: Event) -> bool:
        """Whether an event changed anything. A rule may be anybody's: what it raises is not for those who tell it."""
        try:
            return self._journal.take(event)
        except Exception:
            logger.exception(_DROPPED, extra={"query_id": self.query_id})
            self.abandon()
            return False

    def _kick(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_journal())

    async def _write_journal(self) -> None:
        """Writes until there is nothing left to write, through any outage that the lease survives."""
        while not self.is_over and self._journal.has_work:
            try:
                outcome = await self._journal.write(self.gang.running_tokens, self.gang.closed)
                if outcome is not None:
                    report_outcome(self.query_id, outcome, self._tools.metrics)
                    self._end(program_end(self.program, outcome))
                elif self.program.stop is not None:  # somebody else's record may have ended it
                    self.gang.close()
            except Fenced:
                self.lose("is another tracker's, or its program final")
            except StateUnavailable as error:
                self._log("the log cannot be written; trying again", error)
                await asyncio.sleep(_WRITE_RETRY_SECONDS * random.uniform(0.5, 1.5))
            except StateFull as error:
                self._log("Redis is full; the program waits", error)
                await asyncio.sleep(_FULL_RETRY_SECONDS * random.uniform(0.5, 1.5))
            except Exception:
                logger.exception(_DROPPED, extra={"query_id": self.query_id})
                self.abandon()

    # --- from state to action ---

    @property
    def _directive(self) -> Directive:
        """What should be so now. Many grants come for one state of the program."""
        if self._directed is not self.program:
            self._directed, self._its_directive = self.program, directive(self.program)
        return self._its_directive

    def _wanted(self) -> tuple[Branch, ...]:
        """What should run; nothing any more where the algorithm fails, as `_taken` of a rule."""
        try:
            return self._directive.wanted
        except Exception:
            logger.exception(_DROPPED, extra={"query_id": self.query_id})
            self.abandon()
            return ()

    def _act(self) -> None:
        """Makes the world follow the state, where there is one to follow."""
        self._will_act = False
        if self.is_over:
            return
        try:
            self._follow()
        except Exception:
            logger.exception(_DROPPED, extra={"query_id": self.query_id})
            self.abandon()

    def _follow(self) -> None:
        """What should run is wanted, what cannot be decided here is asked."""
        now = self._directive
        if now.stop is not None:
            return
        for branch in self.gang.calls.keys() - set(now.wanted):
            self.gang.cancel(branch)
        self._want(now, [branch for branch in now.wanted if self.gang.is_free(branch)])
        questions = [pair for pair in now.compare if pair not in self._asked]
        if questions:
            self._asked.update(questions)
            self._tools.equality.ask(self, questions)
        self._verify(now.verify)

    def _verify(self, candidates: Iterable[tuple[Branch, str]]) -> None:
        """Asks the query's verifier about texts that it has not been asked about."""
        reward = self.program.query.reward
        new = [(branch, text) for branch, text in candidates if branch not in self._to_verify]
        if new and reward is not None:
            self._to_verify.update(branch for branch, _ in new)
            self._tools.verifier.ask(self, reward.verifier, reward.task, new)

    def _want(self, now: Directive, startable: list[Branch]) -> None:
        """States what the program would run, in each pool that it uses."""
        own, algorithm = self.program.pool, self.program.algorithm
        calls: defaultdict[str, list[tuple[Branch, str]]] = defaultdict(list)
        for branch in startable:
            if branch not in self._pools:
                self._pools[branch] = algorithm.call(branch).pool or own
            calls[self._pools[branch]].append((branch, self.gang.next_attempt(branch)))
        for pool in {own, *self._pools.values()}:
            self._tools.scheduler.want(Wanted(self.query_id, pool, self.program, tuple(calls.get(pool, ())), now))

    def _check_budget(self) -> None:
        """Ends the program once finished and running calls together have generated its budget."""
        budget = self.program.budget_now
        if budget:
            generated = self.program.ledger.spent + self.gang.running_tokens
            if generated >= budget:
                self.gang.checkpoint()  # the answer is written behind all that was thought
                self.post(BudgetReached(generated))

    # --- the end ---

    def _end(self, end: ProgramEnd) -> None:
        if self.is_over:
            return
        self.is_over = True
        for timer in (self._deadline, self._lease):
            if timer is not None:
                timer.cancel()
        self._tools.scheduler.withdraw(self.query_id, end)
        self._on_end(self)

    def _log(self, message: str, error: Exception | None = None) -> None:
        logger.warning(message, extra={"query_id": self.query_id, "cause": str(error or "")})

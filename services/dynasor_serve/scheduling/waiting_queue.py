"""Whose call goes next? What programs want, in the order of the ordering and of what `Fairness` promises.

`pool` feeds it wants, asks it for the next call when a worker has room, and tells it that the call was granted.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import count
from operator import attrgetter

from dynasor_serve.scheduling.backlog import NEEDED, SPECULATIVE, Backlog, KeyedBacklog, TenantBacklog
from dynasor_serve.scheduling.demand import CLASSES, CallId, Want
from dynasor_serve.scheduling.fairness import Ageing, Fairness, PassedOver, Trickle
from dynasor_serve.scheduling.orderings.registry import Ordering
from dynasor_serve.scheduling.tenants import TenantShares
from dynasor_serve.scheduling.waiting_programs import Line, WaitingCall, WaitingProgram

_by_arrival = attrgetter("arrival")


class WaitingQueue:
    """The calls that wait.

    A more urgent class goes first, and within a class the ordering decides, but for what `Fairness` promises: first a
    class whose trickle is due, then a program that was passed over too often, then, within a class, a call that has
    waited too long. Speculation goes when nothing else waits.
    """

    def __init__(self, ordering: Ordering, fairness: Fairness) -> None:
        self._ordering = ordering
        self._backlog: Backlog = KeyedBacklog()
        if ordering.tenants_share:
            self._backlog = TenantBacklog(TenantShares(fairness.tenant_weights))
        self._trickle = Trickle(fairness.trickle_grants, CLASSES)
        self._passed_over = PassedOver[WaitingProgram](fairness.longest_wait_shares)
        self._ageing = [Ageing[WaitingCall](fairness.longest_wait_seconds) for _ in range(CLASSES)]
        # While a lease changes hands, two trackers may want the same program.
        self._programs: dict[tuple[str, str], WaitingProgram] = {}  # (tracker, program) -> its want
        self._calls = 0
        self._arrivals = count()

    def __len__(self) -> int:
        """How many calls wait."""
        return self._calls

    @property
    def entries(self) -> int:
        """Entries that the heaps hold, stale ones included: at most a few times the programs that wait."""
        return self._backlog.entries

    def longest_wait(self, now: float) -> float:
        """How long the needed call has waited that waits longest, in seconds; 0 where none waits."""
        return max(ageing.longest_wait(now) for ageing in self._ageing)

    # --- what programs want ---

    def want(self, tracker: str, want: Want, tokens_per_branch: float, running: Container[CallId], now: float) -> None:
        """Replaces what a program wanted before.

        Args:
            tokens_per_branch: forecast completion tokens of each of its calls.
            running: the calls that run; a want may have crossed their grants on the wire.
            now: seconds of steady time.
        """
        program = self._programs.get((tracker, want.program))
        if program is not None and (program.want.class_rank, program.want.tenant) != (want.class_rank, want.tenant):
            self.withdraw(tracker, want.program)  # a query keeps both: this is another
            program = None
        if program is None:
            program = self._programs[tracker, want.program] = WaitingProgram(tracker, want, next(self._arrivals))
        program.want, program.tokens_per_branch = want, tokens_per_branch
        known, program.waiting = program.waiting, {}
        self._calls -= len(known)
        needed = max(0, len(want.calls) - want.speculative)
        lines = [(program.needed, want.calls[:needed])]
        if want.speculative or program.speculative.calls:
            # The line that has calls first: a tenant whose calls change tier does not cease to wait in between.
            lines.insert(1 if needed else 0, (program.speculative, want.calls[needed:]))
        for line, calls in lines:
            self._line_up(line, calls, known, running, now)
        for gone in known.values():
            if not gone.line.is_speculative:
                self._ageing[want.class_rank].gone(gone)
        self._calls += len(program.waiting)

    def withdraw(self, tracker: str, program: str) -> None:
        """Forgets what a tracker's program wants."""
        gone = self._programs.pop((tracker, program), None)
        if gone is None:
            return
        self._calls -= len(gone.waiting)
        for call in gone.needed.calls:
            self._ageing[gone.want.class_rank].gone(call)
        self._passed_over.gone(gone)
        self._backlog.discard(gone.needed)
        self._backlog.discard(gone.speculative)
        gone.dissolve()

    def program(self, tracker: str, program: str) -> WaitingProgram | None:
        """What is known of a tracker's program."""
        return self._programs.get((tracker, program))

    def programs_of(self, tracker: str) -> Sequence[str]:
        """The programs of a tracker."""
        return [program for owner, program in self._programs if owner == tracker]

    # --- what they are granted ---

    def first(self, now: float) -> WaitingCall | None:
        """The call that goes next; None where none waits. `now` in seconds of steady time."""
        needed = self._backlog.firsts(NEEDED)
        due = self._trickle.due(needed)
        if due is None:
            passed_over = self._passed_over.due()
            if passed_over is not None:
                return passed_over.needed.first
        for rank, line in enumerate(needed):
            if line is not None and due in (None, rank):
                return self._ageing[rank].due(now) or line.first
        return next((line.first for line in self._backlog.firsts(SPECULATIVE) if line is not None), None)

    def granted(self, waiting: WaitingCall) -> None:
        """A call was granted."""
        program = waiting.line.program
        if not waiting.line.is_speculative:
            self._trickle.granted(program.want.class_rank)
            self._passed_over.granted(program)
        self._backlog.serve(program.want.tenant, program.tokens_per_branch)
        self.drop(waiting)

    def drop(self, waiting: WaitingCall) -> None:
        """A call waits no longer."""
        line, program = waiting.line, waiting.line.program
        del program.waiting[waiting.call]
        self._calls -= 1
        if line.first is waiting:
            line.calls.pop()
        else:
            line.calls.remove(waiting)
        if not line.is_speculative:
            self._ageing[line.rank].gone(waiting)
        self._requeue(line)

    def charge(self, tenant: str, tokens: float) -> None:
        """A tenant's call took so many tokens more than it was charged before; negative where fewer."""
        self._backlog.charge(tenant, tokens)

    def _line_up(
        self,
        line: Line,
        calls: Sequence[CallId],
        known: dict[CallId, WaitingCall],
        running: Container[CallId],
        now: float,
    ) -> None:
        """Makes a line of these calls; takes those that waited already, in either tier, out of `known`."""
        program, ageing = line.program, self._ageing[line.program.want.class_rank]
        waits = program.waiting
        lined_up = []
        for call in calls:
            waiting = known.pop(call, None)
            if waiting is None:
                if call in running or call in waits:
                    continue
                waiting = WaitingCall(call, next(self._arrivals), now, line)
                if not line.is_speculative:
                    ageing.waits(waiting, now)
            elif waiting.line is not line:  # it has changed tier: age is of calls that are needed
                waiting.line = line
                if line.is_speculative:
                    ageing.gone(waiting)
                else:
                    ageing.waits(waiting, now)
            waits[call] = waiting
            lined_up.append(waiting)
        lined_up.sort(key=_by_arrival, reverse=True)
        line.calls = lined_up
        if lined_up and not line.is_speculative:
            self._passed_over.waits(program)
        self._requeue(line)

    def _requeue(self, line: Line) -> None:
        """The line's first call or what its key depends on has changed."""
        program = line.program
        if not line.calls:
            self._backlog.discard(line)
            if not line.is_speculative:
                self._passed_over.gone(program)
            return
        # Of the calls that the want names, so many have been granted since, or are needed before.
        want = program.want
        behind = len(line.calls) if line.is_speculative else len(line.calls) + want.speculative
        position = max(0, len(want.calls) - behind)
        key = self._ordering.key(want, line.first.arrival, program.tokens_per_branch, position)
        self._backlog.put(line, key)

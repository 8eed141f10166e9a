"""The workers of one pool: who they are, what they run, and whether they are fit to run more.

A worker that drains finishes its calls and gets no more; one that fails calls or health checks is in quarantine until a
check passes. What it runs stays on the book until its tracker tells the end, whatever becomes of the worker.
"""

from __future__ import annotations

from collections.abc import Iterable

from dynasor_serve.scheduling.demand import CallEnd, CallId
from dynasor_serve.scheduling.placement import Placement, Worker, WorkerState

# A worker that fails this many calls in a row gets none until its health check passes again.
FAILURES_TO_QUARANTINE = 3
FORGET_DRAINED_SECONDS = 60.0  # longer than any tracker takes to reconnect


class Fleet:
    """All workers of a pool."""

    def __init__(self) -> None:
        self.placement = Placement()
        self._workers: dict[str, Worker] = {}  # name -> worker
        self._strays: dict[str, dict[CallId, int]] = {}  # worker not known yet -> its restated calls -> work in tokens

    @property
    def workers(self) -> Iterable[Worker]:
        return self._workers.values()

    def worker(self, name: str) -> Worker | None:
        """The worker of a name, where it is known."""
        return self._workers.get(name)

    # --- calls ---

    def begin(self, name: str, call: CallId, work: int) -> None:
        """A call runs at a worker, known or not known yet."""
        worker = self._workers.get(name)
        if worker is None:
            self._strays.setdefault(name, {})[call] = work
            return
        worker.in_flight[call] = work
        worker.work += work
        self.placement.changed(worker)

    def end(self, name: str, call: CallId, end: CallEnd) -> None:
        """A call that began there has ended."""
        worker = self._workers.get(name)
        if worker is None:
            strays = self._strays[name]
            del strays[call]
            if not strays:
                del self._strays[name]
            return
        worker.work -= worker.in_flight.pop(call)
        _judge(worker, end)
        self.placement.changed(worker)

    # --- workers ---

    def add(self, name: str, url: str, engine: str, max_in_flight: int) -> Worker:
        """Adds a worker or changes it; a draining worker that is added again takes calls again."""
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = Worker(name, url, engine, max_in_flight)
            worker.in_flight = self._strays.pop(name, {})
            worker.work = sum(worker.in_flight.values())
        if worker.url != url or worker.state is WorkerState.DRAINING:
            worker.state = WorkerState.STARTING
        worker.url, worker.engine, worker.max_in_flight = url, engine, max_in_flight
        self.placement.changed(worker)
        return worker

    def drain(self, name: str) -> int:
        """Grants it nothing more. Returns its running calls, 0 also where there is no such worker (any more)."""
        worker = self._workers.get(name)
        if worker is None:
            return 0
        worker.state = WorkerState.DRAINING
        self.placement.changed(worker)
        return len(worker.in_flight)

    def forget_drained(self, now: float) -> None:
        """Forgets draining workers that have been idle for a while. `now` in seconds of steady time.

        Not at once: a tracker that reconnects restates calls that still run there.
        """
        for worker in list(self._workers.values()):
            if worker.in_flight or worker.state is not WorkerState.DRAINING:
                worker.idle_since = None
            elif worker.idle_since is None:
                worker.idle_since = now
            elif now - worker.idle_since > FORGET_DRAINED_SECONDS:
                del self._workers[worker.name]

    def health(self, name: str, healthy: bool, message: str) -> None:
        """The result of a health check."""
        worker = self._workers.get(name)
        if worker is None or worker.state is WorkerState.DRAINING:
            return
        if not healthy:
            worker.state, worker.message = WorkerState.QUARANTINED, message
        elif worker.state is not WorkerState.READY:
            worker.state, worker.message, worker.failures_in_a_row = WorkerState.READY, "", 0
        self.placement.changed(worker)


def _judge(worker: Worker, end: CallEnd) -> None:
    if end is CallEnd.FINISHED:
        worker.failures_in_a_row = 0
    elif end is CallEnd.WORKER_FAILED:
        worker.failures_in_a_row += 1
        if worker.failures_in_a_row >= FAILURES_TO_QUARANTINE and worker.state is WorkerState.READY:
            worker.state = WorkerState.QUARANTINED
            worker.message = f"failed {worker.failures_in_a_row} calls in a row"

"""Do two answers mean the same? Asked of worker processes, since computer algebra on hostile input may hang or explode.

Called by the servicer with the pairs that trackers could not decide by their keys. Each worker
(`equality_worker`) takes one pair at a time and is killed and replaced when it is late, dies or talks nonsense. Workers
are started with exec, never forked: gRPC's threads do not survive a fork.
"""

import asyncio
import json
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from dynasor_serve.certaindex.answers import AnswerType, canonical

logger = logging.getLogger(__name__)

_WORKER_MODULE = "dynasor_serve.evaluator.equality_worker"
# All that a worker gets of the environment: what the dynamic linker needs, and no secrets.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH")
_ATTEMPTS = 2  # a worker may have died for a reason that is not the pair's
_MAX_LINE_BYTES = 4096

_Pair = tuple[str, str]


class EqualityPoolClosed(RuntimeError):
    """The pool is not running: it was never started, or it has been closed."""


class _WorkerLost(Exception):
    """The worker died, or said what it should not."""


class EqualityPool:
    """Decides whether mathematical answers are equal, within bounds of time and memory.

    Args:
        workers: processes; each uses one core while it is busy.
        timeout_seconds: wall-clock time for one pair, after which it is undecided.
        memory_bytes: address space of one worker; sympy itself takes about 150 MiB.
        start_seconds: time for a worker to start; it imports sympy, which takes a second or two.
        waiting_pairs: pairs that may wait or be worked on; beyond that `decide` waits before it hands in more.
        cached_pairs: decisions that are remembered, the least recently used forgotten first.
        on_restart: called each time a worker was lost and is to be replaced.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        timeout_seconds: float = 2.0,
        memory_bytes: int = 1 << 30,
        start_seconds: float = 60.0,
        waiting_pairs: int = 1024,
        cached_pairs: int = 65_536,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._worker_count = workers
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._start_seconds = start_seconds
        self._cached_pairs = cached_pairs
        self._on_restart = on_restart
        self._decisions: OrderedDict[_Pair, bool | None] = OrderedDict()
        self._pending: dict[_Pair, asyncio.Future[bool | None]] = {}
        self._queue: asyncio.Queue[_Pair] = asyncio.Queue()  # bounded by `_room`
        self._room = asyncio.Semaphore(waiting_pairs)
        self._serving: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers. Returns at once; pairs wait until the first worker is ready."""
        if not self._serving:
            self._serving = [
                asyncio.create_task(self._serve(), name=f"equality worker {number}")
                for number in range(self._worker_count)
            ]

    async def close(self) -> None:
        """Kill the workers. Pairs that wait are undecided. Idempotent."""
        serving, self._serving = self._serving, []
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for pair in tuple(self._pending):
            self._settle(pair, None, remember=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def decide(self, pairs: Sequence[_Pair]) -> list[bool | None]:
        """Return, for each pair of `math` answers, whether they are equal; None where the bounds do not let it be said.

        Answers may be given as models wrote them or as keys. Equal keys, numbers and words are decided on the spot.
        Cancelling the call leaves its pairs to be decided and remembered.

        Raises:
            EqualityPoolClosed: the pool is not running.
        """
        if not self._serving:
            raise EqualityPoolClosed("the equality pool is not running; start() it, and ask before close()")
        decisions: list[bool | None] = []
        waiting: dict[int, asyncio.Future[bool | None]] = {}
        for position, (left, right) in enumerate(pairs):
            known, decision, pair = self._known(left, right)
            decisions.append(decision)
            if not known:
                waiting[position] = await self._asked(pair)
        if waiting:
            # `wait`, unlike `gather`, leaves the futures alone when this call is cancelled: others share them.
            await asyncio.wait(waiting.values())
        for position, future in waiting.items():
            decisions[position] = future.result()
        return decisions

    def _known(self, left: str, right: str) -> tuple[bool, bool | None, _Pair]:
        """Return (whether a decision is known, the decision, the pair by its keys in order)."""
        first, second = canonical(left, AnswerType.MATH), canonical(right, AnswerType.MATH)
        pair = (first.key, second.key) if first.key <= second.key else (second.key, first.key)
        if not first.key or not second.key:  # no answer equals nothing
            return True, None, pair
        if first.key == second.key:
            return True, True, pair
        if first.decided and second.decided:
            return True, False, pair
        if pair in self._decisions:
            self._decisions.move_to_end(pair)
            return True, self._decisions[pair], pair
        return False, None, pair

    async def _asked(self, pair: _Pair) -> "asyncio.Future[bool | None]":
        """Return the future of a pair's decision; hand it to the workers unless somebody has."""
        if (shared := self._pending.get(pair)) is not None:
            return shared
        await self._room.acquire()
        shared = self._pending.get(pair)
        future = asyncio.get_running_loop().create_future() if shared is None else shared
        if shared is not None:
            self._room.release()
        elif not self._serving:
            self._room.release()
            future.set_result(None)
        else:
            future.add_done_callback(lambda _: self._room.release())
            self._pending[pair] = future
            self._queue.put_nowait(pair)
        return future

    def _settle(self, pair: _Pair, decision: bool | None, *, remember: bool) -> None:
        if remember:
            self._decisions[pair] = decision
            if len(self._decisions) > self._cached_pairs:
                self._decisions.popitem(last=False)
        self._pending.pop(pair).set_result(decision)

    async def _serve(self) -> None:
        """Keep one worker alive and give it pairs."""
        worker: _Worker | None = None
        try:
            while True:
                worker = worker or await self._started()
                worker = await self._decide_one(await self._queue.get(), worker)
        finally:
            if worker is not None:
                await worker.kill()

    async def _decide_one(self, pair: _Pair, worker: "_Worker | None") -> "_Worker | None":
        """Settle a pair, whatever happens. Return the worker, or None if it is to be replaced."""
        decision, tried = None, False
        try:
            for _ in range(_ATTEMPTS):
                worker = worker or await self._started()
                if worker is None:
                    continue
                tried = True
                try:
                    decision = await worker.ask(pair, self._timeout_seconds)
                    break
                except (TimeoutError, _WorkerLost) as problem:
                    logger.warning("equality worker lost", extra={"problem": repr(problem)})
                    await worker.kill()
                    worker = None
                    self._on_restart()
                    if isinstance(problem, TimeoutError):
                        break
        except BaseException:  # the pool closes
            if worker is not None:
                await worker.kill()
            tried = False
            raise
        finally:
            self._settle(pair, decision, remember=tried)
        return worker

    async def _started(self) -> "_Worker | None":
        try:
            return await _Worker.start(self._memory_bytes, self._start_seconds)
        except (OSError, TimeoutError, _WorkerLost):
            logger.exception("equality worker does not start")
            await asyncio.sleep(0.2)  # no busy loop while it cannot
            return None


@dataclass(slots=True)
class _Worker:
    """One worker process."""

    process: asyncio.subprocess.Process
    asked: int = 0

    @classmethod
    async def start(cls, memory_bytes: int, start_seconds: float) -> Self:
        """Start one and wait until it is ready.

        Raises:
            OSError: there is no such program, or no process to be had.
            TimeoutError: it is not ready in time.
            _WorkerLost: it died.
        """
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # never import from the working directory
            "-m",
            _WORKER_MODULE,
            str(os.getpid()),
            str(memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C in a terminal is the parent's to answer
            limit=_MAX_LINE_BYTES,
        )
        worker = cls(process)
        try:
            async with asyncio.timeout(start_seconds):
                await worker._read("ready")
        except BaseException:
            await worker.kill()
            raise
        return worker

    async def ask(self, pair: _Pair, timeout_seconds: float) -> bool | None:
        """Return the worker's decision.

        Raises:
            TimeoutError: it is late; kill it.
            _WorkerLost: it died, or answers something else.
        """
        self.asked += 1
        request = {"id": self.asked, "left": pair[0], "right": pair[1], "seconds": timeout_seconds}
        assert self.process.stdin is not None
        async with asyncio.timeout(timeout_seconds):
            try:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                await self.process.stdin.drain()
            except OSError as error:
                raise _WorkerLost("it takes no more questions") from error
            answer = await self._read("equal")
        decision = answer["equal"]
        if answer.get("id") != self.asked or not (decision is None or isinstance(decision, bool)):
            raise _WorkerLost("it answers what was not asked")
        return decision

    async def kill(self) -> None:
        """End the process and wait until it is gone."""
        with suppress(ProcessLookupError):
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()

    async def _read(self, expected: str) -> dict[str, object]:
        assert self.process.stdout is not None
        try:
            line = await self.process.stdout.readline()
            answer = json.loads(line) if line else None
        except ValueError as error:  # a line too long, or no JSON
            raise _WorkerLost("it writes what cannot be read") from error
        if not isinstance(answer, dict) or expected not in answer:
            raise _WorkerLost("it died" if answer is None else "it answers what was not asked")
        return answer

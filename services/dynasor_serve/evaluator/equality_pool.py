"""Do two answers mean the same? Asked of worker processes, since computer algebra on hostile input may hang or explode.

Called by the servicer with the pairs that trackers could not decide by their keys. Each worker
(`equality_worker`) takes one pair at a time and is killed and replaced when it is late, dies or talks nonsense.
Programs take turns, a pair each (`questions`), so that one full of hostile pairs delays the others by a pair and not by
all of them; and answers that have cost a worker before come after all others.
"""

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from dynasor_serve.certaindex.answers import AnswerType, canonical, equal_by_keys
from dynasor_serve.evaluator.child_process import start_python
from dynasor_serve.evaluator.questions import Questions

logger = logging.getLogger(__name__)

_WORKER_MODULE = "dynasor_serve.evaluator.equality_worker"
_ATTEMPTS = 2  # a worker may have died for a reason that is not the pair's
_MAX_LINE_BYTES = 4096

_Pair = tuple[str, str]


class Equality(StrEnum):
    """What is known of a pair of answers."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"  # tried, and not decided within the bounds of one pair
    NOT_REACHED = "not-reached"  # not tried to the end in the time of the request; asking again may decide it


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
        cached_pairs: int = 65_536,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._worker_count = workers
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._start_seconds = start_seconds
        self._cached_pairs = cached_pairs
        self._on_restart = on_restart
        self._questions = Questions[_Pair, Equality](most_remembered=cached_pairs, is_put_off=self._has_cost_a_worker)
        self._costly: OrderedDict[str, None] = OrderedDict()  # keys of answers that have cost a worker, latest last
        self._serving: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers. Returns at once; pairs wait until the first worker is ready."""
        if not self._serving:
            self._serving = [
                asyncio.create_task(self._serve(), name=f"equality worker {number}")
                for number in range(self._worker_count)
            ]

    async def close(self) -> None:
        """Kill the workers. Pairs that wait are not reached. Idempotent."""
        serving, self._serving = self._serving, []
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        self._questions.give_up()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def decide(
        self, pairs: Sequence[_Pair], *, program: str = "", within_seconds: float | None = None
    ) -> list[Equality]:
        """Return what is known of each pair of `math` answers, in order.

        Answers may be given as models wrote them or as keys. What keys tell is decided on the spot.

        Args:
            program: whose answers they are; programs take turns. An empty name makes the request one of its own.
            within_seconds: how long to wait; what is not decided by then is not reached. None waits for all.

        Raises:
            EqualityPoolClosed: the pool is not running.
        """
        if not self._serving:
            raise EqualityPoolClosed("the equality pool is not running; start() it, and ask before close()")
        known = [self._known(left, right) for left, right in pairs]
        open_pairs = [pair for pair, decision in known if decision is None]
        decided = await self._questions.answers(open_pairs, program=program, within_seconds=within_seconds)
        return [decision or decided[pair] or Equality.NOT_REACHED for pair, decision in known]

    def _known(self, left: str, right: str) -> tuple[_Pair, Equality | None]:
        """Return (the pair by its keys in order, what its keys tell of it)."""
        first, second = canonical(left, AnswerType.MATH), canonical(right, AnswerType.MATH)
        pair = (first.key, second.key) if first.key <= second.key else (second.key, first.key)
        if not first.key or not second.key:  # no answer equals nothing
            return pair, Equality.UNDECIDED
        return pair, _DECISIONS_OF_KEYS[equal_by_keys(*pair)]

    async def _serve(self) -> None:
        """Keep one worker alive and give it pairs."""
        worker: _Worker | None = None
        try:
            while True:
                worker = worker or await self._started()
                worker = await self._decide_one(await self._questions.take(), worker)
        finally:
            if worker is not None:
                await worker.kill()

    async def _decide_one(self, pair: _Pair, worker: "_Worker | None") -> "_Worker | None":
        """Settle a pair, whatever happens. Return the worker, or None if it is to be replaced."""
        decision: Equality | None = None
        try:
            for _ in range(_ATTEMPTS):
                worker = worker or await self._started()
                if worker is None:
                    continue
                try:
                    decision = await worker.ask(pair, self._timeout_seconds)
                    break
                except (TimeoutError, _WorkerLost) as problem:
                    logger.warning("equality worker lost", extra={"problem": repr(problem)})
                    decision = Equality.UNDECIDED
                    self._note_cost(pair)
                    await worker.kill()
                    worker = None
                    self._on_restart()
                    if isinstance(problem, TimeoutError):
                        break
        except BaseException:  # the pool closes
            if worker is not None:
                await worker.kill()
            decision = None
            raise
        finally:
            self._questions.settle(pair, decision)
        return worker

    def _has_cost_a_worker(self, pair: _Pair) -> bool:
        return not self._costly.keys().isdisjoint(pair)

    def _note_cost(self, pair: _Pair) -> None:
        for key in pair:
            self._costly[key] = None
            self._costly.move_to_end(key)
        while len(self._costly) > self._cached_pairs:
            self._costly.popitem(last=False)

    async def _started(self) -> "_Worker | None":
        try:
            return await _Worker.start(self._memory_bytes, self._start_seconds)
        except (OSError, TimeoutError, _WorkerLost):
            logger.exception("equality worker does not start")
            await asyncio.sleep(0.2)  # no busy loop while it cannot
            return None


_DECISIONS_OF_KEYS = {True: Equality.EQUAL, False: Equality.DIFFERENT, None: None}
_DECISIONS = {True: Equality.EQUAL, False: Equality.DIFFERENT, None: Equality.UNDECIDED}


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
        process = await start_python(_WORKER_MODULE, str(memory_bytes), line_bytes=_MAX_LINE_BYTES)
        worker = cls(process)
        try:
            async with asyncio.timeout(start_seconds):
                await worker._read("ready")
        except BaseException:
            await worker.kill()
            raise
        return worker

    async def ask(self, pair: _Pair, timeout_seconds: float) -> Equality:
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
        equal = answer["equal"]
        if answer.get("id") != self.asked or not (equal is None or isinstance(equal, bool)):
            raise _WorkerLost("it answers what was not asked")
        return _DECISIONS[equal]

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

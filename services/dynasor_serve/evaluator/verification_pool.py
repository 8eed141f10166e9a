"""How right is this candidate? Asked of one verifier, a bounded number of candidates at a time.

Called by the servicer with the candidates of a program. Programs take turns, a candidate each (`questions`). What was
not reached in the time of a request is asked again by the tracker, so verdicts are remembered, and a candidate that is
at work is finished and remembered too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence

from dynasor_serve.evaluator.questions import Questions
from dynasor_serve.evaluator.verifiers.verifier import (
    CannotVerify,
    InvalidTask,
    Status,
    Verification,
    Verifier,
    VerifierUnavailable,
)

logger = logging.getLogger(__name__)

_NOT_REACHED = Verification(0.0, "not reached in the time of the request", Status.NOT_REACHED)
_PAUSE_SECONDS = 0.2  # no busy loop while the machine can verify nothing

_Digest = bytes  # of a task and a candidate


class VerificationPoolClosed(RuntimeError):
    """The pool is not running: it was never started, or it has been closed."""


class VerificationPool:
    """Asks one verifier on behalf of all programs.

    Args:
        verifier: what judges.
        workers: candidates that are judged at a time.
        most_remembered: verdicts that are remembered, the least recently used forgotten first.
    """

    def __init__(self, verifier: Verifier, *, workers: int = 1, most_remembered: int = 16_384) -> None:
        self._verifier = verifier
        self._worker_count = workers
        self._questions = Questions[_Digest, Verification | InvalidTask](most_remembered=most_remembered)
        self._texts: dict[_Digest, tuple[str, str]] = {}  # of open questions -> (task, candidate)
        self._unavailable: VerifierUnavailable | None = None
        self._working: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See whether the verifier can work here, and begin. Where it cannot, `verify` says so."""
        if self._working:
            return
        try:
            await self._verifier.prepare()
        except VerifierUnavailable as error:
            self._unavailable = error
            logger.warning("a verifier is not offered", extra={"verifier": self._verifier.name, "cause": str(error)})
        else:
            logger.info("a verifier is offered", extra={"verifier": self._verifier.name})
        self._working = [
            asyncio.create_task(self._work(), name=f"{self._verifier.name} {number}")
            for number in range(self._worker_count)
        ]

    async def close(self) -> None:
        """End what runs. Candidates that wait are not reached. Idempotent."""
        working, self._working = self._working, []
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        self._questions.give_up()

    async def verify(
        self, task: str, candidates: Sequence[str], *, program: str = "", within_seconds: float | None = None
    ) -> list[Verification]:
        """Return what is known of each candidate, in order.

        Args:
            task: what the verifier needs to know.
            candidates: texts of the model.
            program: whose candidates they are; programs take turns. An empty name makes the request one of its own.
            within_seconds: how long to wait; what is not judged by then is not reached. None waits for all.

        Raises:
            InvalidTask: the verifier cannot read the task.
            VerifierUnavailable: it cannot work on this machine.
            VerificationPoolClosed: the pool is not running.
        """
        if not self._working:
            raise VerificationPoolClosed("the pool is not running; start() it, and ask before close()")
        if self._unavailable is not None:
            raise VerifierUnavailable(str(self._unavailable))
        self._verifier.check(task)
        digests = [_digest(task, candidate) for candidate in candidates]
        self._texts |= {digest: (task, candidate) for digest, candidate in zip(digests, candidates, strict=True)}
        try:
            known = await self._questions.answers(digests, program=program, within_seconds=within_seconds)
        finally:
            for digest in digests:
                if not self._questions.is_open(digest):
                    self._texts.pop(digest, None)
        verifications = []
        for digest in digests:
            verdict = known[digest]
            if isinstance(verdict, InvalidTask):
                raise InvalidTask(str(verdict))
            verifications.append(verdict or _NOT_REACHED)
        return verifications

    async def _work(self) -> None:
        while True:
            digest = await self._questions.take()
            verdict: Verification | InvalidTask | None = None
            try:
                verdict = await self._judged(*self._texts[digest])
            finally:
                self._questions.settle(digest, verdict)
                self._texts.pop(digest, None)
            await asyncio.sleep(0 if verdict else _PAUSE_SECONDS)  # a turn for others, where judging takes none

    async def _judged(self, task: str, candidate: str) -> Verification | InvalidTask | None:
        try:
            return await self._verifier.verify(task, candidate)
        except InvalidTask as error:
            return error
        except CannotVerify as error:
            logger.warning("nothing can be verified", extra={"verifier": self._verifier.name, "cause": str(error)})
            return None
        except Exception:
            logger.exception("a verifier failed unexpectedly", extra={"verifier": self._verifier.name})
            return Verification(0.0, "the verifier failed; the evaluator's log has the cause", Status.UNDECIDED)


def _digest(task: str, candidate: str) -> _Digest:
    parts = (task.encode("utf-8", "surrogatepass"), candidate.encode("utf-8", "surrogatepass"))
    return hashlib.sha256(len(parts[0]).to_bytes(8, "big") + parts[0] + parts[1]).digest()

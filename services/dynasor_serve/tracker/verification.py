"""The tracker's link to the evaluator: candidates that a verifier judges.

A candidate that is given up, or that a limit of the verifier has ended, has a reward of 0, and the detail says why. A
refusal is told as an error: it holds for all candidates of the query, and ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.programs.events import ProgramError, Rewarded
from dynasor_serve.programs.query import Branch
from dynasor_serve.tracker.evaluator_link import CALL_SECONDS, EvaluatorLink, NoAnswer, Questioner, Refused

# A candidate's time. It covers thirty that take ten seconds each, of this program or of others.
_PATIENCE_SECONDS = 300.0
_MOST_CANDIDATES = 256
_MAX_CANDIDATE_BYTES = 1 << 20
_MAX_REQUEST_BYTES = 8 << 20  # gRPC's own limit is 16 MiB, and the task is in it too
# The evaluator will say the same tomorrow: an unknown verifier or task, a machine without isolation, an older release.
_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)


class Asker(Questioner, Protocol):
    """Who asks: a program's driver."""

    def rewarded(self, event: Rewarded) -> None:
        """Takes the reward of a branch."""
        ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    verifier: str
    task: str
    branch: Branch
    text: str

    @property
    def size(self) -> int:
        """In bytes, as it is sent."""
        return len(self.text.encode())


class VerifierLink(EvaluatorLink[Asker, _Candidate, Rewarded]):
    """Asks how right candidates are."""

    def __init__(self, address: str, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        super().__init__(address, patience_seconds)

    def ask(self, asker: Asker, verifier: str, task: str, candidates: Sequence[tuple[Branch, str]]) -> None:
        """Asks about candidates, each a branch and its text; the asker is told of each branch once.

        Args:
            verifier: its name.
            task: what the verifier needs to know.
        """
        self._add(asker, (_Candidate(verifier, task, branch, text) for branch, text in candidates))

    def _batch(self, questions: Iterable[_Candidate]) -> list[_Candidate]:
        batch: list[_Candidate] = []
        left = _MAX_REQUEST_BYTES
        for question in questions:
            left -= question.size
            is_alike = not batch or (question.verifier, question.task) == (batch[0].verifier, batch[0].task)
            if batch and (left < 0 or len(batch) == _MOST_CANDIDATES or not is_alike):
                break
            batch.append(question)
        return batch

    async def _answers(self, asker: Asker, questions: Sequence[_Candidate]) -> dict[_Candidate, Rewarded]:
        asked = [each for each in questions if each.size <= _MAX_CANDIDATE_BYTES]
        answers = {each: _unverified(each, "it is longer than 1 MiB") for each in questions if each not in asked}
        if not asked:
            return answers
        request = pb.VerifyRequest(
            verifier=asked[0].verifier,
            task=asked[0].task,
            candidates=[each.text for each in asked],
            query_id=asker.query_id,
        )
        try:
            response = await self._stub.Verify(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                raise Refused(error.details()) from error
            raise NoAnswer(error.details()) from error
        if len(response.verifications) != len(asked):
            raise NoAnswer(f"{len(response.verifications)} verifications of {len(asked)} candidates")
        for each, verification in zip(asked, response.verifications, strict=True):
            if not 0.0 <= verification.reward <= 1.0:
                raise NoAnswer(f"a reward of {verification.reward}")
            if verification.status != pb.VERIFICATION_STATUS_NOT_REACHED:
                answers[each] = Rewarded(each.branch, verification.reward, verification.detail)
        return answers

    def _tell(
        self,
        asker: Asker,
        answers: Mapping[_Candidate, Rewarded],
        given_up: Sequence[_Candidate],
        cause: str,
        *,
        is_refused: bool,
    ) -> None:
        for event in (*answers.values(), *(_unverified(each, cause, is_refused=is_refused) for each in given_up)):
            asker.rewarded(event)


def _unverified(candidate: _Candidate, why: str, *, is_refused: bool = False) -> Rewarded:
    message = f"the verifier {candidate.verifier} refuses: {why}"
    error = ProgramError("VERIFIER_REFUSED", message) if is_refused else None
    return Rewarded(candidate.branch, 0.0, f"not verified: {why}", error, is_judged=False)

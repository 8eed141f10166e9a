"""What does a program do on given tests? The answers of two programs are equal if it is the same.

A verifier in form, so that `VerificationPool` gives programs their turns and remembers what was run: the detail of its
verdict is a digest of what happened in each test. It runs programs in the `sandbox`, as `verifiers.unit_tests` does,
takes the same tests, and can be deceived in the same ways; a program that does so only votes for another.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from pathlib import Path

from dynasor_serve.evaluator.sandbox.isolation import IsolationUnavailable, JailLost, Sandbox
from dynasor_serve.evaluator.verifiers.verifier import (
    CannotVerify,
    InvalidTask,
    Status,
    Verification,
    VerifierUnavailable,
)
from dynasor_serve.programs.unit_tests_task import UnreadableTask
from dynasor_serve.programs.verifier_tasks import check_unit_tests

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("behaviour_in_jail.py")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS = 2  # a jail may have died for a reason that is not the program's


class Behaviour:
    """Tells what a program does.

    Args:
        sandbox: where it runs.
    """

    name = "behaviour"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def prepare(self) -> None:
        """See whether the sandbox holds. Raises `VerifierUnavailable` where it does not."""
        try:
            await self._sandbox.inspect()
        except IsolationUnavailable as error:
            raise VerifierUnavailable(str(error)) from error

    def check(self, task: str) -> None:
        """See whether there are tests at all. Raises `InvalidTask` where there are none."""
        try:
            check_unit_tests(task)
        except UnreadableTask as error:
            raise InvalidTask(f"the tests: {error.wrong}; {error.right}") from error

    async def verify(self, task: str, candidate: str) -> Verification:
        """Return a digest of what the program does; undecided where it cannot be loaded or does not come to an end.

        Args:
            task: the tests.
            candidate: the program.
        """
        token = secrets.token_hex(16)
        job = json.dumps({"token": token, "code": candidate, "tests": task}).encode()
        for _ in range(_ATTEMPTS):
            try:
                ended = await self._sandbox.run(_PROGRAM, job)
            except (IsolationUnavailable, OSError) as error:
                raise CannotVerify(str(error)) from error
            except JailLost as error:
                logger.warning("a jail was lost", extra={"cause": str(error)})
            else:
                start = f"{token} ".encode()
                reports = [line.removeprefix(start) for line in ended.report.split(b"\n") if line.startswith(start)]
                digest = reports[-1].decode("ascii", "replace") if reports else ""
                if _DIGEST.fullmatch(digest):
                    return Verification(0.0, digest)
                return Verification(0.0, "it does not run to its end", Status.UNDECIDED)
        return Verification(0.0, f"the jail died {_ATTEMPTS} times", Status.UNDECIDED)

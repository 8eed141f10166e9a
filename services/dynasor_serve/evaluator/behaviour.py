"""What does a program do on given tests? The answers of two programs are equal if it is the same.

A verifier in form, so that `VerificationPool` gives programs their turns and remembers what was run: the detail of its
verdict is a digest of what happened in each test. It runs programs in the `sandbox`, as `verifiers.unit_tests` does,
takes the same tests, and can be deceived in the same ways; a program that does so only votes for another.
"""

from __future__ import annotations

import re
from pathlib import Path

from dynasor_serve.evaluator.sandbox.isolation import Sandbox
from dynasor_serve.evaluator.verifiers import in_jail
from dynasor_serve.evaluator.verifiers.verifier import InvalidTask, Status, Verification
from dynasor_serve.programs import unit_tests_task
from dynasor_serve.programs.verifier_tasks import check_unit_tests

_PROGRAM = Path(__file__).with_name("behaviour_in_jail.py")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Behaviour:
    """Tells what a program does.

    Args:
        sandbox: where it runs.
    """

    name = "behaviour"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._reader = Path(unit_tests_task.__file__).read_text()

    async def prepare(self) -> None:
        """See whether the sandbox holds. Raises `VerifierUnavailable` where it does not."""
        await in_jail.inspect(self._sandbox)

    def check(self, task: str) -> None:
        """See whether there are tests at all. Raises `InvalidTask` where there are none."""
        try:
            check_unit_tests(task)
        except unit_tests_task.UnreadableTask as error:
            raise InvalidTask(f"the tests: {error.wrong}; {error.right}") from error

    async def verify(self, task: str, candidate: str) -> Verification:
        """Return a digest of what the program does; undecided where it cannot be loaded or does not come to an end.

        Args:
            task: the tests.
            candidate: the program.
        """
        job = {"code": candidate, "tests": task, "reader": self._reader}
        heard = await in_jail.run(self._sandbox, _PROGRAM, job)
        if heard is None:
            return Verification(0.0, f"the jail died {in_jail.ATTEMPTS} times", Status.UNDECIDED)
        digest = heard.reports[-1].decode("ascii", "replace") if heard.reports else ""
        if _DIGEST.fullmatch(digest):
            return Verification(0.0, digest)
        return Verification(0.0, "it does not run to its end", Status.UNDECIDED)

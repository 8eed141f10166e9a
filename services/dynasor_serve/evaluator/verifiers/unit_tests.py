"""`unit-tests`: does the candidate's Python pass the tests of the task?

The task is Python that is run after the candidate's code and sees its names. The candidate's code is the last block of
Python in the text, or all of it where there is none, run as an imported module would be: `__name__` is not `__main__`.

**The reward** is the share of tests passed. A test is each `assert` statement at the top level of the tests, and each
function at the top level named `test_…`, which are called without arguments after everything else. Where there is
neither, all of it is one test. Any other statement that raises (an import, a call, a loop) ends the run and counts as
one more test, failed. So the reward is 1 only where everything ran to its end, and each test counts the same.

A candidate that does not compile, raises while it is loaded, ends the process before its tests are through, by whatever
status, or crashes has a reward of 0; one that a limit kills is undecided, which also counts as 0.

**What it proves.** The candidate can neither leave the `sandbox` nor pass by printing, exiting, or patching builtins,
be it in their module or in its own: verdicts come over a pipe of their own, with a token drawn at random for this run,
and the tests are compiled, and the builtins that they see are copied, before the candidate's code is run. But tests
call the candidate's code in one process, and in one process nothing is secret or fixed: code that is written to deceive
can return an object that equals everything, define a `len` of its own that the tests find first, patch a module that
the tests import, or look for the token in the frames above it. The models' samples are chosen by this reward and not
trained on it, so code written against this runner is not what they are made of; a reward that a model is trained on
needs tests that see only plain data from another process.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from dynasor_serve.certaindex.answers.code import last_program
from dynasor_serve.evaluator.sandbox.isolation import End, Ended, Sandbox
from dynasor_serve.evaluator.verifiers import in_jail
from dynasor_serve.evaluator.verifiers.verifier import InvalidTask, Status, Verification, clipped
from dynasor_serve.programs import unit_tests_task
from dynasor_serve.programs.verifier_tasks import check_unit_tests

_PROGRAM = Path(__file__).with_name("unit_tests_in_jail.py")
_VERDICT = re.compile(r"([0-9]{1,9}) ([0-9]{1,9}) (.*)", re.DOTALL)


class UnitTests:
    """Verifies Python by running tests on it.

    Args:
        sandbox: where it runs.
    """

    name = "unit-tests"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._reader = Path(unit_tests_task.__file__).read_text()

    async def prepare(self) -> None:
        """See whether the sandbox holds. Raises `VerifierUnavailable` where it does not."""
        await in_jail.inspect(self._sandbox)

    def check(self, task: str) -> None:
        """See whether there are tests, as admission has. Raises `InvalidTask` where there are none."""
        try:
            check_unit_tests(task)
        except unit_tests_task.UnreadableTask as error:
            raise InvalidTask(clipped(f"the task {error}")) from error

    async def verify(self, task: str, candidate: str) -> Verification:
        """Return the share of the tests that the candidate passes."""
        job = {"code": last_program(candidate) or candidate, "tests": task, "reader": self._reader}
        heard = await in_jail.run(self._sandbox, _PROGRAM, job)
        if heard is None:
            return Verification(0.0, f"the jail died {in_jail.ATTEMPTS} times", Status.UNDECIDED)
        return self._judged(heard.ended, [report.decode("unicode_escape", "replace") for report in heard.reports])

    def _judged(self, ended: Ended, reports: list[str]) -> Verification:
        word, _, rest = reports[-1].partition(" ") if reports else ("", "", "")
        if word == "malformed":
            raise InvalidTask(clipped(f"the task {rest}"))
        verdict = _VERDICT.fullmatch(rest)
        if word == "passed" and verdict:
            passed, tests, failure = int(verdict[1]), int(verdict[2]), verdict[3]
            detail = f"{passed} of {tests} tests passed" + (f"; {failure}" if failure else "")
            # Bounded: a candidate that has found the token reports what it likes.
            return Verification(min(passed / max(tests, 1), 1.0), clipped(detail))
        when = "while its tests ran" if word == "loaded" else "before its tests"
        limits = self._sandbox.limits
        match ended.end:
            case End.EXITED:
                return Verification(0.0, f"the code ended the process {when} (exit status {ended.code})")
            case End.CRASHED:
                return Verification(0.0, f"the code crashed {when} ({_signal(ended.code)})")
            case End.REPORT:
                limit = f"for writing more than {limits.report_bytes} bytes into its report"
            case End.KILLED:
                limit = "by the machine, which may be short of memory"
            case _:
                limit = f"by the {ended.end.value} of {limits.seconds:g} s"
        return Verification(0.0, f"killed {when} {limit}", Status.UNDECIDED)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"

"""How a verifier runs a program of its own in the jail, and hears from it.

What the program reports begins with a token drawn for this run; whatever else comes, the candidate has written.
"""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynasor_serve.evaluator.sandbox.isolation import Ended, IsolationUnavailable, JailLost, Sandbox
from dynasor_serve.evaluator.verifiers.verifier import CannotVerify, VerifierUnavailable

logger = logging.getLogger(__name__)

ATTEMPTS = 2  # a jail may have died for a reason that is not the candidate's


@dataclass(frozen=True, slots=True)
class Heard:
    """How a run ended, and what the program reported: lines without their token."""

    ended: Ended
    reports: list[bytes]


async def inspect(sandbox: Sandbox) -> None:
    """See whether the sandbox holds. Raises `VerifierUnavailable` where it does not."""
    try:
        await sandbox.inspect()
    except IsolationUnavailable as error:
        raise VerifierUnavailable(str(error)) from error


async def run(sandbox: Sandbox, program: Path, job: dict[str, Any]) -> Heard | None:
    """Run a program; None where its jail died `ATTEMPTS` times.

    Args:
        program: a file of ours that needs the standard library alone.
        job: what it reads from its standard input as JSON, beside the token.

    Raises:
        CannotVerify: nothing can be run now.
    """
    token = secrets.token_hex(16)
    line = json.dumps({"token": token, **job}).encode()
    start = f"{token} ".encode()
    for _ in range(ATTEMPTS):
        try:
            ended = await sandbox.run(program, line)
        except (IsolationUnavailable, OSError) as error:
            raise CannotVerify(str(error)) from error
        except JailLost as error:
            logger.warning("a jail was lost", extra={"cause": str(error)})
        else:
            lines = ended.report.split(b"\n")
            return Heard(ended, [each.removeprefix(start) for each in lines if each.startswith(start)])
    return None

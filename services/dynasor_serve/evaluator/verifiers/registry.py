"""Verifiers by their names. A new one is a module beside this one and a line in `_VERIFIERS`."""

from __future__ import annotations

from collections.abc import Callable

from dynasor_serve.evaluator.sandbox.isolation import Sandbox
from dynasor_serve.evaluator.verifiers.game24 import Game24
from dynasor_serve.evaluator.verifiers.unit_tests import UnitTests
from dynasor_serve.evaluator.verifiers.verifier import Verifier

_VERIFIERS: tuple[Callable[[Sandbox], Verifier], ...] = (
    lambda _: Game24(),
    UnitTests,
)


def verifiers(sandbox: Sandbox) -> dict[str, Verifier]:
    """Return every verifier by its name; those that run code run it in the sandbox."""
    return {verifier.name: verifier for verifier in (build(sandbox) for build in _VERIFIERS)}

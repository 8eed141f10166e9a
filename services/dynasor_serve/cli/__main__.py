"""`dynasor`: reads the command line, runs one command, and turns its failure into one sentence and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from dynasor_serve.cli.failures import CommandFailed

# command -> the module of this package that has it, in the order of the help
MODULES = {
    "up": "up",
    "run": "run",
    "submit": "submit",
    "batch": "batch",
    "get": "queries",
    "list": "queries",
    "watch": "queries",
    "cancel": "queries",
    "demo": "demo",
    "record": "record",
    "bench": "bench",
    "algorithms": "algorithms",
    "replay": "replay",
    "profile": "profile",
    "calibrate": "calibrate",
    "rules": "rules",
    "version": "version",
}


def main() -> None:
    """The entry point of the script `dynasor` and of `python -m dynasor_serve.cli`."""
    try:
        _refuse_other_encodings(sys.argv[1:])
        app_for(sys.argv[1:])()
    except CommandFailed as failure:
        print(f"dynasor: {failure.sentence}", file=sys.stderr)
        sys.exit(failure.exit_code)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing may be flushed into the closed pipe at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command line's commands; the named one alone where one is named.

    The others are not even imported: those that start a stack bring in more than all the rest.
    """
    app = typer.Typer(
        name="dynasor",
        help="Answers to hard questions for fewer tokens: reasoning programs that stop when their answer is settled.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    named = MODULES.get(arguments[0]) if arguments else None
    for module in (named,) if named else dict.fromkeys(MODULES.values()):
        app.add_typer(import_module(f"dynasor_serve.cli.{module}").app)
    return app


def _refuse_other_encodings(arguments: list[str]) -> None:
    """Raises `CommandFailed` where an argument is not UTF-8: Python carries such bytes as lone surrogates."""
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument[:40].encode(errors="surrogateescape").decode(errors="replace")
            message = f"argument {number} ({shown!r}) is not valid UTF-8; give it in UTF-8"
            raise CommandFailed(message, ExitCode.BAD_INPUT) from None


if __name__ == "__main__":
    main()

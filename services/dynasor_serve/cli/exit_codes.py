"""What the exit status of every command says, so that scripts need not read messages."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of `dynasor`."""

    ANSWERED = 0  # done as asked
    FAILED = 1  # the query failed or was cancelled by somebody, or the server refused for reasons of its own
    BAD_INPUT = 2  # the command line or the query is wrong
    UNREACHABLE = 3  # no gateway answers
    INTERRUPTED = 130  # Ctrl-C; the query was cancelled
    TERMINATED = 143  # SIGTERM; the query was cancelled


EXIT_CODES_HELP = (
    "Exit status: 0 answered; 1 the query failed or was cancelled; 2 the command line or the query is wrong; "
    "3 no gateway answers; 130 ended by Ctrl-C (the query is cancelled)."
)

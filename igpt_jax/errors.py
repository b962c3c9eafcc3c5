"""The error that a user can mend: one line, no traceback; and the codes that commands exit with."""

from typing import Final

BAD_INPUT: Final = 2
# EX_TEMPFAIL of sysexits.h: nothing is wrong with the input, the same command goes on. 128 + 15, of
# SIGTERM, would not tell a process that saved and left from one that was killed.
TRY_AGAIN: Final = 75


class UserError(ValueError):
    """Wrong input from outside: expected, got, what to do, in one line.

    The command line prints it as `error: ...` and exits with code 2.
    """


class Stopped(Exception):  # nothing is wrong
    """A scheduler asked a run to stop, and all of it is saved."""

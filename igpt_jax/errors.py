"""The error that a user can mend: one line, no traceback."""


class UserError(ValueError):
    """Wrong input from outside: expected, got, what to do, in one line.

    The command line prints it as `error: ...` and exits with code 2.
    """

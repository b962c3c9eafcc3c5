"""Fields of a config from the command line."""

import contextlib
import io
import re
from typing import Any

from igpt_jax.errors import UserError


def override(config: Any, kind: type, arguments: list[str], prog: str = "train.py") -> Any:
    """Sets fields of a config from `--any.field value`; an unknown one is one clear line.

    Args:
        config: the config of a file.
        kind: its class.
        arguments: of the command line that are left.
        prog: command that takes them.

    Raises:
        UserError: no such field, or no such value.
    """
    import tyro

    if not arguments:
        return config
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return tyro.cli(
                kind,
                default=config,
                args=arguments,
                prog=prog,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        text = output.getvalue()
        if stop.code in (0, None):
            print(text)
            raise
        raise UserError(f"config: {_one_line(text)}") from None


def _one_line(text: str) -> str:
    """What tyro's box of several lines says, without colours, frame and rules."""
    bare = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{5,}|For full helptext.*", " ", text)
    return " ".join(bare.split())

"""Paths as users write them, with `~` and environment variables."""

import os
import re
from pathlib import Path
from typing import Final

from igpt_jax.errors import UserError

_VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expand_path(path: str | os.PathLike[str]) -> Path:
    """Replace `~` and variables such as `$IGPT_DATA`.

    Raises:
        UserError: A variable is not set.
    """
    written = os.fspath(path)
    for match in _VARIABLE.finditer(written):
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(
                f"path: expected the environment variable {name} to be set, got {written!r}; "
                f"set it (export {name}=/path/to/data) or write the path in full"
            )
    return Path(os.path.expandvars(written)).expanduser()

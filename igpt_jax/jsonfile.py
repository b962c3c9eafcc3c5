"""JSON files that are whole or not there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igpt_jax.errors import UserError


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a mapping; a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=1))
    os.replace(temporary, path)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a mapping.

    Raises:
        UserError: the file holds something else; `remedy` says what to do.
    """
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got a damaged file; {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(values).__name__}; {remedy}")
    return values

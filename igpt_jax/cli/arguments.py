"""What commands read from their arguments."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any, Final, NoReturn

from igpt_jax.errors import UserError
from igpt_jax.stores import is_url

MAX_IMAGES: Final = 1_000_000  # of one call, which keeps all of them in memory


class Parser(argparse.ArgumentParser):
    """Tells of wrong arguments as a `UserError`."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of ending the process."""
        raise UserError(f"{message}; see --help")


def local_directory(text: str) -> Path:
    """Reads the directory of a run on this machine."""
    if is_url(text):
        raise argparse.ArgumentTypeError(
            f"expected a directory here, got {text}; igpt export {text} --to DIR brings a GPT here"
        )
    return Path(text)


def setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE; the value is JSON, or text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    with contextlib.suppress(ValueError):
        value = json.loads(value)
    return name, tuple(value) if isinstance(value, list) else value


def attributes(text: str) -> list[int] | dict[str, str]:
    """Reads 1,-1,2 or suit=hearts,centre=42."""
    parts = [part.strip() for part in text.split(",")]
    if "=" in text:
        pairs = [part.partition("=") for part in parts]
        named = {name.strip(): value.strip() for name, _, value in pairs}
        if all(name and value for name, value in named.items()) and len(named) == len(parts):
            return named
    with contextlib.suppress(ValueError):
        return [int(part) for part in parts]
    raise argparse.ArgumentTypeError(
        f"expected each name once, like suit=hearts,centre=42, or whole numbers like 1,-1,2, got "
        f"{text!r}"
    )


def integers(text: str) -> list[int]:
    """Reads 1,2,5-9."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise argparse.ArgumentTypeError(
                f"expected whole numbers like 1,2 or 0-9, got {text!r}"
            )
        wanted = range(int(first), int(last or first) + 1)
        if len(numbers) + len(wanted) > MAX_IMAGES:
            raise argparse.ArgumentTypeError(f"expected at most {MAX_IMAGES} numbers, got {text!r}")
        numbers.extend(wanted)
    if not numbers:
        raise argparse.ArgumentTypeError(f"expected at least one number, got {text!r}")
    return numbers

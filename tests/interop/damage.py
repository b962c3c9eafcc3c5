"""Files with a few wrong bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from igpt_jax.errors import UserError


def errors_of_damage(path: Path, whole: bytes, read: Callable[[], object]) -> list[str]:
    """Reads a file 300 times, each time with two random bytes of `whole` overwritten.

    Returns:
        The messages of all failures, each one line; any error but a `UserError` is raised.
    """
    draws, messages = np.random.default_rng(0), []
    for _ in range(300):
        damaged = bytearray(whole)
        for place in draws.integers(len(whole), size=2):
            damaged[place] = draws.integers(256)
        path.write_bytes(damaged)
        try:
            read()
        except UserError as error:
            messages.append(str(error))
    assert not any("\n" in message or "TypeCheckError" in message for message in messages)
    return messages

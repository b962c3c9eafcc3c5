"""The platform that a program is traced for: this machine's, or that of a plan's devices."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TRACED_FOR: ContextVar[str | None] = ContextVar("traced_for", default=None)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`."""
    return _TRACED_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """What is traced inside is for devices that may not be there.

    Args:
        name: `cpu`, `gpu` or `tpu`.
    """
    token = _TRACED_FOR.set(name)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)

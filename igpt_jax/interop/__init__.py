"""Weights that others published, and ours for others."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igpt_jax.interop.conversion import LAYOUTS, convert

__all__ = ["LAYOUTS", "convert"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: tokenizers, which it needs, read files here."""
    if name not in __all__:
        raise AttributeError(f"module 'igpt_jax.interop' has no attribute {name!r}")
    from igpt_jax.interop import conversion

    return getattr(conversion, name)

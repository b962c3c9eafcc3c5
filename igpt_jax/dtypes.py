"""The compute dtype of a run."""

from typing import Any, Literal

import jax.numpy as jnp

from igpt_jax.platform import platform

DTypeName = Literal["auto", "float32", "bfloat16"]


def resolve_dtype(name: DTypeName) -> Any:
    """The compute dtype; `auto` is bfloat16 on accelerators and float32 on CPU.

    CPUs emulate bfloat16, which is slower than float32 there.
    """
    if name == "auto":
        return jnp.float32 if platform() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)

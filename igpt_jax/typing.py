"""The array types of every signature; shape letters are listed in CONTRIBUTING.md."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8

Params: TypeAlias = Mapping[str, Any]
"""A nested mapping of arrays: the `params` collection of a Flax module."""

Leaf: TypeAlias = Any
"""An array of a pytree class, or what a JAX transformation puts in its place (a tracer's
description, a sharding); its shape is in the class's docstring."""

PRNGKey: TypeAlias = Key[Array, ""]
"""One typed key, as `jax.random.key` makes it."""

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Leaf", "PRNGKey", "Params", "Shaped", "UInt8"]

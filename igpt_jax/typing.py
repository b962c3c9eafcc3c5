"""The array types of every signature; shape letters are listed in CONTRIBUTING.md."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8

Params: TypeAlias = Mapping[str, Any]
"""A nested mapping of arrays: the `params` collection of a Flax module."""

PRNGKey: TypeAlias = Key[Array, ""]
"""One typed key, as `jax.random.key` makes it."""

__all__ = ["Array", "Bool", "Float", "Int", "Key", "PRNGKey", "Params", "Shaped", "UInt8"]

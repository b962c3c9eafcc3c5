"""Where activations lie on the mesh; parameters follow the rules in `training/sharding.py`."""

import math

import jax
from jax.sharding import PartitionSpec

from igpt_jax.typing import Array

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def shard_rows(x: Array, last_axis: str | None = None) -> Array:
    """Keeps the rows of activations `[b ...]` on the devices that hold their pictures.

    Left alone, the partitioner may instead split channels as parameters lie, and gather the rows.
    Does nothing outside of `jax.set_mesh`, or where the mesh does not divide the array.

    Args:
        x: activations.
        last_axis: mesh axis that splits the last axis, if any.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
        return x
    if last_axis is not None and x.shape[-1] % mesh.shape[last_axis]:
        last_axis = None
    spec = PartitionSpec(BATCH_AXES, *(None,) * (x.ndim - 2), last_axis)
    return jax.lax.with_sharding_constraint(x, spec)

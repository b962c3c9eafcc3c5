"""Where activations lie on the mesh; parameters follow the rules in `training/sharding.py`."""

import math
from typing import Any

import jax
from jax.sharding import PartitionSpec

from igpt_jax.typing import Array, Float, Int

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


def look_up(table: Float[Array, "v d"], ids: Int[Array, "b ..."]) -> Float[Array, "b ... d"]:
    """Rows of a table that lies on the mesh by its channels.

    Each device looks its own channels up for the pictures of all that share the table, then they
    exchange channels for pictures. Left alone, the partitioner of a mesh of 'data' and 'fsdp'
    instead gathers the gradient of the whole batch on every device.
    """
    found, mesh = table[ids], jax.sharding.get_abstract_mesh()
    if mesh.empty or ids.shape[0] == 1 or ids.shape[0] % mesh.shape["data"]:
        return found
    fsdp = "fsdp" if table.shape[1] % mesh.shape["fsdp"] == 0 else None
    spec = PartitionSpec("data", *(None,) * (ids.ndim - 1), fsdp)
    return shard_rows(jax.lax.with_sharding_constraint(found, spec))


def gather_params(params: Any) -> Any:
    """Parameters whole on every device, to compute with; each array is gathered by itself.

    For networks of convolutions, whose arrays lie on the mesh by output channels: left alone, the
    partitioner splits their activations so, too. Does nothing outside of `jax.set_mesh`.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return params
    return jax.lax.with_sharding_constraint(params, PartitionSpec())

"""What one of several processes has of batches, devices and arrays."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from igpt_jax.partitioning import AXES, BATCH_AXES
from igpt_jax.training.sharding import replicated


def own_rows(mesh: Mesh, global_batch_size: int) -> list[int]:
    """The rows of a batch that this process's devices hold, in rising order.

    Processes that split one matrix product between them have the same rows.
    """
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    parts = sharding.addressable_devices_indices_map((global_batch_size,)).values()
    slices = [part[0] for part in parts if part is not None]
    return sorted({row for part in slices for row in range(*part.indices(global_batch_size))})


def own_mesh(mesh: Mesh) -> Mesh:
    """A mesh of this process's devices alone, which share parameters; of one process, the same."""
    if jax.process_count() == 1:
        return mesh
    devices = np.asarray(jax.local_devices()).reshape(1, -1, 1)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def own_copy(arrays: Any, mesh: Mesh) -> Any:
    """Arrays of all processes on this process's devices; all processes must call it together.

    One leaf at a time is whole on each device, for a moment.
    """
    if jax.process_count() == 1:
        return arrays
    gather, here = _gather(mesh), own_mesh(mesh)

    def copy(leaf: jax.Array) -> jax.Array:
        return jax.device_put(np.asarray(gather(leaf)), _fitted(leaf, here))

    return jax.tree.map(copy, arrays)


def place(arrays: Any, shardings: Any) -> Any:
    """Arrays that each process has whole, laid out over the devices of all."""
    if jax.process_count() == 1:
        return jax.device_put(arrays, shardings)

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(one, arrays, shardings)


def on_host(task: Any) -> Any:
    """A dataclass of losses, the arrays that these hold on no device, where there are several.

    What lies on one process's devices cannot be moved to those of all.
    """
    if jax.process_count() == 1:
        return task

    def moved(leaf: Any) -> Any:
        return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf

    held = {name: getattr(task, name) for name in ("loss", "later", "evaluate")}
    return dataclasses.replace(task, **jax.tree.map(moved, held))


@functools.lru_cache
def _gather(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda leaf: leaf, out_shardings=replicated(mesh))


def _fitted(leaf: jax.Array, mesh: Mesh) -> NamedSharding:
    """As an array lies on a mesh, on a smaller one whose axes may not divide it."""
    spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else PartitionSpec()
    for size, axis in zip(leaf.shape, spec, strict=False):
        axes = axis if isinstance(axis, tuple) else (axis,)
        if size % math.prod(mesh.shape[name] for name in axes if name is not None):
            return replicated(mesh)
    return NamedSharding(mesh, spec)

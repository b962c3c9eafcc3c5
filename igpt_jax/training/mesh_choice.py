"""The smallest mesh that a training state fits on, from shapes and the memory of a device."""

import contextlib
import dataclasses
import logging
import math
from typing import Any, Final

import flax.linen as nn
import jax

from igpt_jax.partitioning import AXES
from igpt_jax.training.sharding import MeshConfig, axis_names, fitted_axes

logger = logging.getLogger("igpt_jax.training")

COPIES: Final = 4  # of the parameters: themselves, their averages, and AdamW's two moments
SHARE: Final = 1 / 3  # of the memory for these; the rest is for gradients and activations
DRAWN_COPIES: Final = 1.5  # of the parameters while drawing: themselves, and in bfloat16
DRAWN_SHARE: Final = 3 / 4  # of the memory for these; the rest is for caches
MAX_TENSOR: Final = 8  # beyond it, products are too thin for a chip


def choose_mesh(
    config: MeshConfig,
    params: Any,
    num_devices: int,
    memory: float | None,
    rows: int,
    slices: int = 1,
) -> MeshConfig:
    """A config with the sizes that it leaves open.

    Where `fsdp` and `tensor` both are open, `fsdp` is the smallest power of two with which the
    state takes a third of a device's memory, or all devices where none does. `tensor` stays 1
    unless there are more devices than rows to give them. Where one is given, the other is 1.

    Args:
        config: sizes, 0 where they are open.
        params: shapes of the parameters, with the names of their axes.
        num_devices: of all processes.
        memory: bytes of one device; None leaves copies on all of them.
        rows: pictures of one part of a batch.
        slices: of TPUs, joined by a slower network; each has whole copies.
    """
    given = dataclasses.replace(config, fsdp=config.fsdp or 1, tensor=config.tensor or 1)
    if not config.is_open or memory is None:
        return given
    tensor = 1
    while tensor < MAX_TENSOR and rows < num_devices // tensor and num_devices % tensor == 0:
        tensor *= 2
    if num_devices % tensor or rows % (num_devices // tensor):
        tensor = 1  # no size helps: the batch is told of as one that does not divide
    fsdp, most = 1, num_devices // slices // tensor
    while state_bytes(params, fsdp, tensor) > SHARE * memory:
        if most % (2 * fsdp):
            logger.warning(
                "mesh: expected the training state in a third of the %.1f GiB of a device, got "
                "%.1f GiB a device of %d; use more devices, or accumulation_steps and remat",
                memory / 2**30, state_bytes(params, fsdp, tensor) / 2**30, num_devices,
            )  # fmt: skip
            break
        fsdp *= 2
    return MeshConfig(-1, fsdp, tensor)


def choose_sampling_mesh(params: Any, num_devices: int, memory: float) -> MeshConfig:
    """The mesh to draw on: copies of the model, each on as few devices as hold it.

    A sampler reads all parameters for each token. Devices that share them (`fsdp`) would gather
    them each time, those that share products (`tensor`) only sum activations.

    Args:
        params: shapes of the parameters, with the names of their axes.
        num_devices: of all processes.
        memory: bytes of one device.
    """
    tensor = 1
    while (
        DRAWN_COPIES * param_bytes(params, 1, tensor) > DRAWN_SHARE * memory
        and tensor < MAX_TENSOR
        and num_devices % (2 * tensor) == 0
    ):
        tensor *= 2
    return MeshConfig(-1, 1, tensor)


def state_bytes(params: Any, fsdp: int, tensor: int) -> int:
    """Bytes of a device for parameters, averages and moments; see `param_bytes`."""
    return COPIES * param_bytes(params, fsdp, tensor)


def param_bytes(params: Any, fsdp: int, tensor: int) -> int:
    """Bytes of a device for parameters, laid out by the table of rules.

    Args:
        params: shapes of the parameters, with the names of their axes.
        fsdp: devices that share a copy.
        tensor: devices that share a product.
    """
    sizes = dict(zip(AXES, (1, fsdp, tensor), strict=True))

    def held(leaf: Any, names: Any) -> int:
        shared = math.prod(sizes[axis] for axis in fitted_axes(leaf.shape, names, sizes) if axis)
        return leaf.size * leaf.dtype.itemsize // shared

    return sum(jax.tree.leaves(jax.tree.map(held, nn.unbox(params), axis_names(params))))


def device_memory() -> int | None:
    """Bytes that a program may use of a device; None for parts of a CPU, or where none tells."""
    limits = []
    for device in jax.local_devices():
        with contextlib.suppress(RuntimeError):  # of plug-ins that do not count
            stats = device.memory_stats() if device.platform != "cpu" else None
            if stats and "bytes_limit" in stats:
                limits.append(stats["bytes_limit"])
    return min(limits, default=None)

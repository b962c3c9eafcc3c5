"""The device mesh and the one table that says how arrays lie on it."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from igpt_jax.errors import UserError
from igpt_jax.partitioning import AXES, BATCH_AXES

logger = logging.getLogger("igpt_jax.training")

# Logical axis of a parameter -> mesh axis. Megatron-style tensor parallelism
# (Shoeybi et al. 2019) over heads, hidden channels and vocabulary; ZeRO-3 style sharding over the
# residual channels, and over the output channels and codes of networks of convolutions.
RULES = (
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("head_dim", None),
    ("mlp", "tensor"),
    ("norm", None),
    ("layers", None),
    ("window", None),
    ("channels_in", None),
    ("channels", "fsdp"),
    ("codes", "fsdp"),
    ("code_dim", None),
)

# Names of the axes of parameters whose modules give none, by the last key of their path and their
# number of axes: convolutions and what stands between them.
NAMES = {
    ("kernel", 2): ("channels_in", "channels"),
    ("kernel", 4): ("window", "window", "channels_in", "channels"),
    ("kernel", 5): ("window", "window", "window", "channels_in", "channels"),
    ("bias", 1): ("norm",),
    ("scale", 1): ("norm",),
    ("codebook", 2): ("codes", "code_dim"),
    ("running_share", 1): ("codes",),
    ("running_sum", 2): ("codes", "code_dim"),
    ("embedding", 2): ("codes", "code_dim"),
}

LARGE = 2**17  # numbers of a parameter that is worth a word where it stays whole


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share the work, and how.

    Where neither `fsdp` nor `tensor` is given (0), a run chooses them by the memory of its devices
    (`mesh_choice.choose_mesh`); everywhere else, and where one is given, 0 means 1.

    Attributes:
        data: copies of the model that see different pictures; -1 takes all devices left.
        fsdp: devices that share one copy of parameters and optimizer state.
        tensor: devices that share one matrix product.
    """

    data: int = -1
    fsdp: int = 0
    tensor: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the sizes are left to the run."""
        return (self.data, self.fsdp, self.tensor) == (-1, 0, 0)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh ('data', 'fsdp', 'tensor') over all devices.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or copies do not divide over
            slices.
    """
    devices = jax.devices() if devices is None else devices
    fsdp, tensor = config.fsdp or 1, config.tensor or 1
    data = len(devices) // max(fsdp * tensor, 1) if config.data == -1 else config.data
    if data * fsdp * tensor != len(devices) or min(data, fsdp, tensor) < 1:
        raise UserError(
            f"mesh: expected data * fsdp * tensor = {len(devices)} devices, got "
            f"{config.data} * {fsdp} * {tensor}; set data to -1 to take what is left"
        )
    # Linen needs Auto axes: it places no sharding on intermediate arrays itself.
    return Mesh(
        _arranged(data, fsdp, tensor, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def _arranged(
    data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device]
) -> np.ndarray[Any, np.dtype[Any]]:
    """Devices so that neighbours on the mesh are neighbours on the network.

    An axis of the mesh may take part of an axis of the torus: `jax.make_mesh` allows it on v5e
    alone, and elsewhere has no mesh of 2 x 8 for a slice of 4 x 4. Slices of TPUs that are joined
    by a slower network are copies (`data`).

    Raises:
        UserError: copies do not divide over the slices.
    """
    slices = num_slices(devices)
    if slices == 1:
        shape = (data, fsdp, tensor)
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if data % slices:
        raise UserError(
            f"mesh: expected a multiple of {slices} for data, which is split over as many slices, "
            f"got {data}; let fsdp * tensor divide the {len(devices) // slices} devices of one"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp, tensor), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def num_slices(devices: Sequence[jax.Device]) -> int:
    """Slices of TPUs; 1 of all else, also where JAX counts hosts of GPUs as slices."""
    return len(
        {getattr(device, "slice_index", 0) if device.platform == "tpu" else 0 for device in devices}
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def axis_names(boxed: Any) -> Any:
    """Logical names of the axes of each (abstract) parameter: a `PartitionSpec`, None for none.

    A module gives them with `nn.with_logical_partitioning`; `NAMES` has the others. Numbers have no
    axes.
    """

    def name(path: tuple, leaf: Any) -> PartitionSpec | None:
        if isinstance(leaf, nn.LogicallyPartitioned):
            return PartitionSpec(*leaf.names)
        # A table of each digit of a class: embedding_0, embedding_1.
        kind = str(getattr(path[-1], "key", "")).rstrip("0123456789").rstrip("_")
        names = NAMES.get((kind, leaf.ndim)) if leaf.ndim else ()
        return None if names is None else PartitionSpec(*names)

    return jax.tree_util.tree_map_with_path(
        name, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )


def param_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Shardings of (abstract) parameters.

    An axis that does not divide by its share of the mesh is left whole, and so is a parameter
    without names; the log says so of large ones.
    """
    left_whole = []

    def fit(path: tuple, leaf: Any, names: PartitionSpec | None) -> NamedSharding:
        fitted = fitted_axes(leaf.shape, names, mesh.shape)
        if not any(fitted) and leaf.size >= LARGE and mesh.shape["fsdp"] > 1:
            left_whole.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        return NamedSharding(mesh, PartitionSpec(*fitted))

    shardings = jax.tree_util.tree_map_with_path(fit, nn.unbox(boxed), axis_names(boxed))
    if left_whole:
        logger.warning(
            "mesh: %d large parameters stay whole on every device, as they do not divide: %s",
            len(left_whole), ", ".join(left_whole[:3]),
        )  # fmt: skip
    return shardings


def fitted_axes(
    shape: Sequence[int], names: PartitionSpec | None, sizes: Mapping[str, int]
) -> list[str | None]:
    """The axis of the mesh that each axis of a parameter lies over; None for none.

    Args:
        shape: of the parameter.
        names: of its axes; None for none.
        sizes: devices along each axis of the mesh.
    """
    rules = dict(RULES)
    axes = [None if name is None else rules[name] for name in names or ()]
    return [
        axis if axis is not None and sizes[axis] > 1 and dim % sizes[axis] == 0 else None
        for dim, axis in zip(shape, axes, strict=False)
    ]


def opt_state_shardings(
    optimizer: optax.GradientTransformation, params: Any, shardings: Any, mesh: Mesh
) -> Any:
    """Shardings of the optimizer state: moments lie like their parameters."""

    def is_masked(leaf: Any) -> bool:  # stands for a parameter that another player has
        return isinstance(leaf, optax.MaskedNode)

    return optax.tree_utils.tree_map_params(
        optimizer.init,
        lambda leaf, sharding: leaf if is_masked(leaf) else sharding,
        jax.eval_shape(optimizer.init, params),
        shardings,
        transform_non_params=lambda _: replicated(mesh),
        is_leaf=is_masked,
    )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a global batch on its devices; texts stay behind."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
        if array.dtype.kind != "U"
    }


def check_batch_size(global_batch_size: int, accumulation_steps: int, mesh: Mesh) -> None:
    """Refuses a batch that the mesh and the accumulation steps cannot split evenly."""
    shares = accumulation_steps * math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if global_batch_size % shares:
        near = max(global_batch_size // shares, 1) * shares
        raise UserError(
            f"global_batch_size: expected a multiple of {shares} (accumulation steps x data x fsdp "
            f"devices), got {global_batch_size}; try {near}"
        )

"""A published layout as data: which of its arrays becomes which of our parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from igpt_jax.errors import UserError
from igpt_jax.parameters import abstract_params, flatten

NOTHING = "(?!)"
"""A regular expression that matches no name."""

Specs: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]
"""Shape and dtype of every array of a checkpoint, by its published name."""


class Source(NamedTuple):
    """Where one of our parameters comes from.

    Attributes:
        names: the published array, or one a layer.
        build: turns a published array to our axes.
        stacked: the built arrays are stacked on a new first axis, that of layers.
    """

    names: tuple[str, ...]
    build: Callable[[np.ndarray], np.ndarray] = lambda array: array
    stacked: bool = False


@dataclass(frozen=True)
class Layout:
    """A checkpoint's layout for one size of model.

    Attributes:
        module: our module.
        sources: for each of our parameters, `/` between the names of its path.
        shapes: shape of every published array that must be there.
        ignored: regular expression of whole names that may be there and do not matter: buffers,
            statistics, the loss' own networks.
        zeros: the same of arrays that may be there if they are all zero.
    """

    module: nn.Module
    sources: Mapping[str, Source]
    shapes: Mapping[str, tuple[int, ...]]
    ignored: str = NOTHING
    zeros: str = NOTHING


def one(name: str, build: Callable[[np.ndarray], np.ndarray] = lambda array: array) -> Source:
    """One array."""
    return Source((name,), build)


def per_layer(
    pattern: str,
    num_layers: int,
    build: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> Source:
    """One array a layer; `{}` in the pattern stands for its index."""
    return Source(tuple(pattern.format(i) for i in range(num_layers)), build, stacked=True)


def transposed(array: np.ndarray) -> np.ndarray:
    """PyTorch's Linear `[out in]` to Flax' `[in out]`."""
    return array.T


def conv_kernel(array: np.ndarray) -> np.ndarray:
    """PyTorch's convolution `[out in h w]` to Flax' `[h w in out]`."""
    return array.transpose(2, 3, 1, 0)


def split_heads(
    num_heads: int, part: int = 0, num_parts: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    """Part of a fused projection `[parts*heads*k d]` to `[d heads k]`."""

    def build(array: np.ndarray) -> np.ndarray:
        rows = array.shape[0] // num_parts
        taken = array[part * rows : (part + 1) * rows]
        return taken.T.reshape(array.shape[1], num_heads, -1)

    return build


def split_heads_bias(
    num_heads: int, part: int = 0, num_parts: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    """Part of a fused bias `[parts*heads*k]` to `[heads k]`."""
    return lambda array: np.split(array, num_parts)[part].reshape(num_heads, -1)


def merge_heads(num_heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An output projection `[d heads*k]` to `[heads k d]`."""
    return lambda array: array.T.reshape(num_heads, -1, array.shape[0])


def split_parts(array: np.ndarray) -> np.ndarray:
    """A projection to several times as many channels `[parts*d d]` to `[d parts d]`."""
    dim = array.shape[1]
    return array.T.reshape(dim, -1, dim)


def leaf_shapes(module: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a module's parameters by the names of `Layout.sources`."""
    device = SingleDeviceSharding(jax.local_devices()[0])
    return flatten(abstract_params(module, placement=device))


def shape_of(specs: Specs, name: str, ndim: int, kind: str) -> tuple[int, ...]:
    """Shape of an array that tells the size of the model.

    Raises:
        UserError: it is missing or has another number of axes.
    """
    if name not in specs:
        raise UserError(
            f"{kind}: expected an array {name}, got {len(specs)} arrays without it, such as "
            f"{next(iter(specs), 'none')!r}; is this a checkpoint of another kind?"
        )
    shape = tuple(specs[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise UserError(f"{kind}: expected {name} of {ndim} axes, got the shape {list(shape)}")
    return shape


def count_layers(specs: Specs, prefix: str, separator: str = ".") -> int:
    """Number of layers of names `{prefix}{i}{separator}*`: the highest index plus one.

    An index that cannot be true of so few arrays is left to the check of names.
    """
    found = [
        name.removeprefix(prefix).split(separator)[0] for name in specs if name.startswith(prefix)
    ]
    indices = [int(index) for index in found if index.isdecimal() and len(index) < 6]
    return max((index for index in indices if index < len(specs)), default=-1) + 1


def check_head_dim(kind: str, embed_dim: int, num_heads: int) -> None:
    """Refuses a number of heads that does not divide the channels."""
    if num_heads < 1 or embed_dim % num_heads:
        raise UserError(f"{kind}: expected num_heads to divide {embed_dim}, got {num_heads}")


def names_of(sources: Mapping[str, Source]) -> Sequence[str]:
    """Every published name that some parameter is made of."""
    return list(dict.fromkeys(name for source in sources.values() for name in source.names))

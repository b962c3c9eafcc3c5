"""Published checkpoints to our modules and parameters, strictly."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.autoencoders import janus_vq, llamagen_vq, taming_vqgan
from igpt_jax.interop.layouts.base import Layout, Source, Specs
from igpt_jax.interop.layouts.imagegpt import imagegpt, imagegpt_tf
from igpt_jax.interop.layouts.llamagen import llamagen_gpt
from igpt_jax.interop.layouts.maskgit_vq import maskgit_vq
from igpt_jax.interop.layouts.rar import rar
from igpt_jax.interop.layouts.t5 import t5_encoder
from igpt_jax.interop.layouts.taming_gpt import taming_gpt
from igpt_jax.interop.layouts.var import var, var_vq
from igpt_jax.typing import Params

Arrays: TypeAlias = Mapping[str, np.ndarray]

LAYOUTS: Final[Mapping[str, Callable[..., Layout]]] = {
    "imagegpt": imagegpt,
    "imagegpt-tf": imagegpt_tf,
    "llamagen-gpt": llamagen_gpt,
    "llamagen-vq": llamagen_vq,
    "taming-gpt": taming_gpt,
    "taming-vqgan": taming_vqgan,
    "janus-vq": janus_vq,
    "maskgit-vq": maskgit_vq,
    "rar": rar,
    "var": var,
    "var-vq": var_vq,
    "t5-encoder": t5_encoder,
}


def convert(state_dict: Arrays, kind: str, **config: Any) -> tuple[nn.Module, Params]:
    """Turns a published checkpoint to one of our modules and its parameters.

    Args:
        state_dict: arrays by their published names; may be lazy, each is read when it is needed.
        kind: the layout, one of `LAYOUTS`.
        config: what shapes cannot tell, such as `num_heads` or `grid_shape`, and any other field of
            the module's config.

    Returns:
        The module and its parameters, in the dtype of the checkpoint.

    Raises:
        UserError: no such kind, or an array is missing, extra or of another shape; names it.
    """
    layout = find_layout(specs_of(state_dict), kind, **config)
    check_zeros(layout, state_dict, kind)
    params: dict[str, Any] = {}
    for path, leaf in converted(layout, state_dict):
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = jax.block_until_ready(jnp.array(leaf))  # so that one copy at a time is read
    return layout.module, params


def find_layout(specs: Specs, kind: str, **config: Any) -> Layout:
    """The layout of a checkpoint, all of whose names and shapes fit it.

    Raises:
        UserError: as `convert`.
    """
    if kind not in LAYOUTS:
        raise UserError(f"kind: expected one of {', '.join(LAYOUTS)}, got {kind!r}")
    try:
        layout = LAYOUTS[kind](specs, **config)
    except TypeError as error:  # a field that the config does not have
        raise UserError(f"{kind}: {error}; see the fields of its config") from error
    _check_names(layout, specs, kind)
    return layout


def specs_of(arrays: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of arrays, without reading those that are lazy."""
    known = getattr(arrays, "specs", None)
    if known is not None:
        return dict(known)
    found = {}
    for name, array in arrays.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise UserError(f"{name}: expected an array, got {type(array).__name__}")
        found[name] = jax.ShapeDtypeStruct(tuple(array.shape), np.asarray(array).dtype)
    return found


def converted(layout: Layout, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Each of our parameters, one after the other, so that one at a time is in memory.

    Those of the longest stacks come first, when least else is in memory.
    """
    specs = specs_of(arrays)

    def size(path: str) -> int:
        return sum(math.prod(specs[name].shape) for name in layout.sources[path].names)

    for path in sorted(layout.sources, key=size, reverse=True):
        yield path, build(layout.sources[path], arrays)


def build(source: Source, arrays: Arrays) -> np.ndarray:
    """One parameter."""
    if not source.stacked:
        (name,) = source.names
        return np.ascontiguousarray(source.build(np.asarray(arrays[name])))
    stacked = None
    for layer, name in enumerate(source.names):
        part = source.build(np.asarray(arrays[name]))
        if stacked is None:
            stacked = np.empty((len(source.names), *part.shape), part.dtype)
        stacked[layer] = part
    assert stacked is not None
    return stacked


def check_zeros(layout: Layout, arrays: Arrays, kind: str) -> None:
    """Refuses arrays that our module has no place for, unless they are zero."""
    for name in specs_of(arrays):
        if re.fullmatch(layout.zeros, name) and np.any(np.asarray(arrays[name])):
            raise UserError(
                f"{kind}: expected {name} to be zero, as the published model has none; this "
                "checkpoint was trained further with biases, which is not supported"
            )


def _check_names(layout: Layout, specs: Specs, kind: str) -> None:
    missing = [name for name in layout.shapes if name not in specs]
    if missing:
        raise UserError(
            f"{kind}: expected {_some(missing)} of shape {list(layout.shapes[missing[0]])}, found "
            f"none among {len(specs)} arrays; the file is of another kind or not whole"
        )
    for name, shape in layout.shapes.items():
        if tuple(specs[name].shape) != tuple(shape):
            raise UserError(
                f"{kind}: expected {name} of shape {list(shape)}, got {list(specs[name].shape)}; "
                "the file is of another kind or its config (num_heads, ...) differs"
            )
    harmless = f"{layout.ignored}|{layout.zeros}"
    extra = [n for n in specs if n not in layout.shapes and not re.fullmatch(harmless, n)]
    if extra:
        raise UserError(
            f"{kind}: found {_some(extra)} of shape {list(specs[extra[0]].shape)}, which the model "
            "has no place for; the file is of another kind or of a changed model"
        )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"

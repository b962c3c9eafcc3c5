"""Published checkpoints to our modules and parameters, strictly."""

import functools
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
from igpt_jax.interop.layouts.base import Layout, Source, Specs, leaf_shapes, names_of
from igpt_jax.interop.layouts.imagegpt import imagegpt, imagegpt_tf
from igpt_jax.interop.layouts.llamagen import llamagen_gpt
from igpt_jax.interop.layouts.maskgit_vq import maskgit_vq
from igpt_jax.interop.layouts.multiscale_vq import var_vq
from igpt_jax.interop.layouts.rar import rar
from igpt_jax.interop.layouts.t5 import t5_encoder
from igpt_jax.interop.layouts.taming_gpt import taming_gpt
from igpt_jax.interop.layouts.var import var
from igpt_jax.parameters import unflatten
from igpt_jax.serialization import from_dict, to_dict
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
    leaves = converted(layout, state_dict)
    # Each finished before the next is read: one copy at a time.
    params = {path: jax.block_until_ready(jnp.array(leaf)) for path, leaf in leaves}
    return layout.module, unflatten(params)


def find_layout(specs: Specs, kind: str, **config: Any) -> Layout:
    """The layout of a checkpoint, all of whose names and shapes fit it.

    Raises:
        UserError: as `convert`.
    """
    if kind not in LAYOUTS:
        raise UserError(f"kind: expected one of {', '.join(LAYOUTS)}, got {kind!r}")
    try:
        layout = LAYOUTS[kind](specs, **config)
        module: Any = layout.module
        from_dict(type(module.config), to_dict(module.config))  # refuses fields of other types
        expected = leaf_shapes(module)
    except UserError:
        raise
    except Exception as error:  # a value of another type fails in many ways
        if not config:
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{kind}: expected settings that a config of its kind takes, got {config}: "
            f"{reason[:200]}"
        ) from error
    check_layout(layout, specs, expected, kind)
    return layout


def check_layout(layout: Layout, specs: Specs, expected: Specs, kind: str) -> None:
    """Refuses a checkpoint that a layout does not fit, name by name and shape by shape.

    Args:
        layout: what the checkpoint should be.
        specs: its arrays.
        expected: shapes of our parameters by the names of `Layout.sources`.
        kind: what errors call it.

    Raises:
        UserError: as `convert`.
    """
    _check_names(layout, specs, kind)
    _check_leaves(layout, specs, expected, kind)


def specs_of(arrays: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of arrays, without reading those that are lazy."""
    known = getattr(arrays, "specs", None)
    if known is not None:
        return dict(known)
    found = {}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray | jax.Array):
            raise UserError(
                f"{name}: expected a NumPy array, got {type(array).__name__}; pass "
                "tensor.detach().float().numpy() of PyTorch's, or the file to igpt import"
            )
        found[name] = jax.ShapeDtypeStruct(array.shape, array.dtype)
    return found


def converted(layout: Layout, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Each of our parameters, one after the other, so that one at a time is in memory.

    Those of the longest stacks come first, when least else is in memory.
    """
    specs = specs_of(arrays)

    def size(path: str) -> int:
        return sum(math.prod(specs[name].shape) for name in layout.sources[path].names)

    for path in sorted(layout.sources, key=size, reverse=True):
        yield path, build(layout.sources[path], arrays, leaf_spec(layout.sources[path], specs))


def build(source: Source, arrays: Arrays, spec: jax.ShapeDtypeStruct) -> np.ndarray:
    """One parameter, of the shape and dtype that `leaf_spec` tells."""
    if not source.stacked:
        (name,) = source.names
        return np.asarray(source.build(np.asarray(arrays[name])), order="C")
    stacked = np.empty(spec.shape, spec.dtype)
    for layer, name in enumerate(source.names):
        stacked[layer] = source.build(np.asarray(arrays[name]))
    return stacked


def leaf_spec(source: Source, specs: Specs) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a parameter, nothing read; the wider dtype where layers differ."""
    shape = specs[source.names[0]].shape
    # Built of one zero seen everywhere, which takes no memory.
    built = source.build(np.broadcast_to(np.zeros((), np.int8), shape)).shape
    if source.stacked:
        built = (len(source.names), *built)
    dtypes = (specs[name].dtype for name in source.names)
    return jax.ShapeDtypeStruct(built, functools.reduce(jnp.promote_types, dtypes))


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


def _check_leaves(layout: Layout, specs: Specs, expected: Specs, kind: str) -> None:
    """Refuses arrays of whole numbers, and settings that ask for other parameters."""
    for name in names_of(layout.sources):
        if not jnp.issubdtype(specs[name].dtype, jnp.floating):
            raise UserError(
                f"{kind}: expected {name} of floating point numbers, got {specs[name].dtype}; "
                "quantized checkpoints are not supported"
            )
    for path in {**expected, **layout.sources}:
        built = leaf_spec(layout.sources[path], specs).shape if path in layout.sources else None
        wanted = expected[path].shape if path in expected else None
        if built != wanted:
            raise UserError(
                f"{kind}: expected {path} of shape {_shape(wanted)}, as the settings say, but the "
                f"arrays give {_shape(built)}; leave out settings that shapes tell by themselves"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"

"""Parameters of the networks of published metrics, from PyTorch's state dicts."""

from collections.abc import Callable, Mapping
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.weights import take_weight
from igpt_jax.typing import Array, Float, Params

_KERNEL: Final = "kernel"
_UNUSED_END: Final = ".num_batches_tracked"


def published_params(
    weights: Mapping[str, np.ndarray],
    abstract: Params,
    name_of: Callable[[tuple[str, ...], str], str],
    *,
    model: str,
    unused: tuple[str, ...] = (),
) -> Params:
    """Return the parameters of a module whose submodules have the published names.

    Args:
        weights: a state dict; the norms' counts of batches in it are not used.
        abstract: shapes of the module's parameters; those named `kernel` are convolutions'.
        name_of: the published name of a parameter, given the names of its layer and its own.
        model: what the weights are of, for the error message.
        unused: how names start that the file may have and no one reads.

    Raises:
        UserError: an entry is missing, has another shape or is not of this network; it is named.
    """
    unread = {name for name in weights if not name.startswith(unused)}
    unread -= {name for name in unread if name.endswith(_UNUSED_END)}

    def entry(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> Float[Array, "..."]:
        *layer, kind = (key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        name, shape = name_of(tuple(layer), kind), leaf.shape
        if kind == _KERNEL:
            shape = (*shape[:-3:-1], *shape[:-2])
        value = take_weight(weights, name, shape, model=model)
        unread.discard(name)
        if kind == _KERNEL:
            value = value.transpose(*range(2, value.ndim), 1, 0)
        return jnp.asarray(value, jnp.float32)

    params = jax.tree_util.tree_map_with_path(entry, abstract)
    if unread:
        raise UserError(
            f"weights of {model}: expected no entry {min(unread)}, got one; "
            "give the file of this model"
        )
    return params

"""Names, shapes and places of a module's parameters; nothing here computes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from igpt_jax.model_config import Generator, Tokenizer
from igpt_jax.models.conditioning import CondImage, Conditions, TextFeatures
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.var import VAR
from igpt_jax.text.t5 import T5Encoder
from igpt_jax.training.sharding import param_shardings
from igpt_jax.typing import Array, Float, Params


def module_inputs(module: Any) -> tuple[Any, ...]:
    """Inputs that shape the parameters of a tokenizer, a generator or a text encoder."""
    if isinstance(module, T5Encoder):
        return text_inputs()
    if isinstance(module, Generator):
        return generator_inputs(module)
    return (tokenizer_input(module),)


def abstract_params(module: nn.Module, *, placement: Sharding | Mesh) -> Any:
    """Shapes of a module's parameters and where they will lie; nothing is computed.

    Args:
        module: whose.
        placement: one sharding for all, or a mesh to lay them out on by the table of rules.
    """
    boxed = jax.eval_shape(module.init, jax.random.key(0), *module_inputs(module))["params"]
    shapes = nn.unbox(boxed)
    if isinstance(placement, Mesh):
        shardings = param_shardings(boxed, placement)
    else:
        shardings = jax.tree.map(lambda _: placement, shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def generator_inputs(gpt: Generator) -> tuple[Any, ...]:
    """Inputs that shape a generator's parameters."""
    config = gpt.config
    labels = jnp.zeros((1,), jnp.int32) if config.num_classes else None
    if isinstance(gpt, VAR):
        later = config.seq_len - 1
        return jnp.zeros((1, later, gpt.config.code_dim)), labels
    tokens = jnp.zeros((1, config.seq_len - 1), jnp.int32)
    if isinstance(gpt, GPT) and gpt.config.kinds not in ((), ("labels",)):
        return tokens, _conditions(gpt.config)
    return tokens, labels


def _conditions(config: GPTConfig) -> Conditions:
    """One row of everything that must be asked of a GPT."""
    given: dict[str, Any] = {}
    if config.num_classes:
        given["labels"] = jnp.zeros(1, jnp.int32)
    if config.attribute_sizes:
        given["attributes"] = jnp.zeros((1, len(config.attribute_sizes)), jnp.int32)
    if config.text_len:
        shape = (1, config.text_len)
        features = jnp.zeros((*shape, config.text_dim))
        given["text"] = TextFeatures(features, jnp.ones(shape, bool), jnp.zeros(1, bool))
    if config.cond_image:
        tokens = jnp.zeros((1, config.cond_len), jnp.int32)
        given["image"] = CondImage(tokens, jnp.zeros(1, bool))
    return Conditions(**given)


def text_inputs() -> tuple[Array, Array]:
    """Inputs that shape a text encoder's parameters."""
    return jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)


def tokenizer_input(tokenizer: Tokenizer) -> Float[Array, "1 h w 3"]:
    """An input that shapes a tokenizer's parameters."""
    return jnp.zeros((1, tokenizer.image_size, tokenizer.image_size, 3))


def flatten(params: Params) -> dict[str, Any]:
    """Parameters by their names in a file."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {param_name(path): leaf for path, leaf in leaves}


def param_name(path: Any) -> str:
    """Name of a parameter in a file: its path with `/` between."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def unflatten(named: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping that `flatten` was given."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree

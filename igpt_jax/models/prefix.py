"""What stands before the first cell: class, attributes and texts as slots, or a start vector."""

from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp

from igpt_jax.models.conditioning import (
    AttributeEmbedder,
    ClassEmbedder,
    Conditions,
    StartEmbedder,
    TextEmbedder,
)
from igpt_jax.models.gpt_config import GPTConfig
from igpt_jax.typing import Array, Bool, Float

Embedder: TypeAlias = ClassEmbedder | AttributeEmbedder | TextEmbedder

_EMBEDDED = ("labels", "attributes", "text")


class CombinedEmbedder(nn.Module):
    """The prefixes of several conditions, one behind the other."""

    config: GPTConfig

    @nn.compact
    def __call__(self, asked: Conditions) -> Float[Array, "b p d"]:
        """The prefix of each row."""
        parts = [
            _embedder(self.config, kind, name=kind)(getattr(asked, kind))
            for kind in _kinds(self.config)
        ]
        return jnp.concatenate(parts, axis=1)


def build_prefix(config: GPTConfig) -> Embedder | CombinedEmbedder | StartEmbedder:
    """The module that turns conditions to slots."""
    match _kinds(config):
        case ():
            return StartEmbedder(config.embed_dim)
        case (kind,):
            return _embedder(config, kind)
        case _:
            return CombinedEmbedder(config)


def embed_prefix(
    module: Any, asked: Conditions, batch_size: int
) -> tuple[Float[Array, "b p d"], Bool[Array, "b p"] | None]:
    """The slots of each row, and which may be seen; None for all."""
    match module:
        case StartEmbedder():
            return module(batch_size), None
        case CombinedEmbedder():
            prefix = module(asked)
        case _:
            [condition] = [
                given for kind in _EMBEDDED if (given := getattr(asked, kind)) is not None
            ]
            prefix = module(condition)
    if asked.text is None:
        return prefix, None
    # Texts come last.
    more = prefix.shape[1] - asked.text.mask.shape[1]
    return prefix, jnp.pad(asked.text.mask, ((0, 0), (more, 0)), constant_values=True)


def _kinds(config: GPTConfig) -> tuple[str, ...]:
    return tuple(kind for kind in config.kinds if kind in _EMBEDDED)


def _embedder(config: GPTConfig, kind: str, name: str | None = None) -> Embedder:
    dim = config.embed_dim
    match kind:
        case "labels":
            return ClassEmbedder(config.num_classes, config.class_factors, dim, name=name)
        case "attributes":
            return AttributeEmbedder(config.attribute_sizes, dim, name=name)
        case _:
            return TextEmbedder(config.text_len, config.text_dim, dim, name=name)

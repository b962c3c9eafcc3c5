"""The condition of a picture: a class, a text's features, or nothing but a start vector."""

import dataclasses
import math
from typing import Any, TypeAlias

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from igpt_jax.models.layers import kernel_init
from igpt_jax.typing import Array, Float, Int, Leaf


@flax.struct.dataclass
class TextFeatures:
    """What a text encoder says of a batch of texts.

    Attributes:
        features: float `[b t c]`, padded on the left.
        mask: bool `[b t]`, which positions are text; padding is never attended to.
        is_null: bool `[b]`, rows that get the null condition instead of their text.
    """

    features: Leaf
    mask: Leaf
    is_null: Leaf


Condition: TypeAlias = Int[Array, " b"] | TextFeatures | None
"""Class ids, a text's features, or nothing."""


def null_condition(condition: Condition, num_classes: int) -> Condition:
    """The same number of rows that ask for nothing, for guidance (Ho & Salimans 2022)."""
    if condition is None:
        return None
    if isinstance(condition, TextFeatures):
        return dataclasses.replace(condition, is_null=jnp.ones_like(condition.is_null))
    return jnp.full_like(condition, num_classes)


def split_label(labels: Int[Array, " b"], factors: tuple[int, ...]) -> Int[Array, "b p"]:
    """Splits class ids into mixed-radix digits, the most significant first.

    With factors (11, 10), the numbers 0 to 109 become (tens, ones).
    """
    digits = []
    for factor in reversed(factors):
        digits.append(labels % factor)
        labels = labels // factor
    return jnp.stack(digits[::-1], axis=-1)


class ClassEmbedder(nn.Module):
    """Embeds a class id as a prefix of one token, or of one token a digit.

    The id `num_classes` is the null condition that classifier-free guidance needs
    (Ho & Salimans 2022): it has rows of its own.

    Attributes:
        num_classes: number of classes; ids are 0 to `num_classes`, the last one is null.
        factors: radices of the digits, () for one embedding a class. Digits let classes share
            what they have in common: 42 and 47 share their tens.
        embed_dim: channels `d`.
    """

    num_classes: int
    factors: tuple[int, ...]
    embed_dim: int

    @nn.compact
    def __call__(self, labels: Int[Array, " b"]) -> Float[Array, "b p d"]:
        """The prefix of each row."""
        radices = self.factors or (self.num_classes,)
        assert math.prod(radices) >= self.num_classes
        is_null = labels == self.num_classes
        digits = split_label(jnp.where(is_null, 0, labels), radices)
        embedded = []
        for place, radix in enumerate(radices):
            table = self.param(
                f"embedding_{place}",
                kernel_init(None, "embed"),
                (radix + 1, self.embed_dim),
                jnp.float32,
            )
            embedded.append(table[jnp.where(is_null, radix, digits[:, place])])
        return jnp.stack(embedded, axis=1)


class StartEmbedder(nn.Module):
    """The start vector of an unconditional model (iGPT's `sos`)."""

    embed_dim: int

    @nn.compact
    def __call__(self, batch_size: int) -> Float[Array, "b 1 d"]:
        """The same prefix for each row."""
        start = self.param("embedding_0", kernel_init("embed"), (self.embed_dim,), jnp.float32)
        return jnp.broadcast_to(start, (batch_size, 1, self.embed_dim))


class TextEmbedder(nn.Module):
    """Maps the features of a text encoder to prefix slots (LlamaGen, `CaptionEmbedder`).

    The null condition is features of its own, one for each slot; the mask stays the text's.

    Attributes:
        text_len: slots `t`.
        text_dim: channels `c` of the features.
        embed_dim: channels `d`.
    """

    text_len: int
    text_dim: int
    embed_dim: int

    @nn.compact
    def __call__(self, condition: TextFeatures) -> Float[Array, "b t d"]:
        """The prefix of each row."""
        shape = (self.text_len, self.text_dim)
        null: Any = self.param("null_features", nn.initializers.normal(0.02), shape, jnp.float32)
        text = jnp.where(condition.mask[..., None], condition.features, 0)
        features = jnp.where(condition.is_null[:, None, None], null, text)
        hidden = self._dense("up", (None, "embed"))(features)
        return self._dense("out", ("embed", None))(nn.gelu(hidden, approximate=True))

    def _dense(self, name: str, axes: tuple[str | None, str | None]) -> nn.Dense:
        return nn.Dense(self.embed_dim, use_bias=False, kernel_init=kernel_init(*axes), name=name)

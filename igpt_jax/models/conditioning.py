"""What a picture is asked by: a class, digit by digit if wanted, or nothing but a start vector."""

import math

import flax.linen as nn
import jax.numpy as jnp

from igpt_jax.models.layers import kernel_init
from igpt_jax.typing import Array, Float, Int


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

"""The condition of a picture: class, attributes, texts, another picture, or nothing at all."""

import dataclasses
import math
from typing import Any, TypeAlias

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from igpt_jax.models.layers import kernel_init
from igpt_jax.partitioning import look_up
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


@flax.struct.dataclass
class Caption:
    """Texts as tokens of the GPT's own sequence.

    Attributes:
        tokens: int `[b t]`, ids of the caption tokenizer, padded on the right.
        lengths: int `[b]`, tokens that are no padding, the end included; 0 is the null condition.
    """

    tokens: Leaf
    lengths: Leaf


@flax.struct.dataclass
class CondImage:
    """The pictures that pictures are made from.

    Attributes:
        tokens: int `[b l]`, in raster order.
        is_null: bool `[b]`, rows that are made from none.
    """

    tokens: Leaf
    is_null: Leaf


@flax.struct.dataclass
class Conditions:
    """Several conditions at once; those that are None are not asked of the model.

    Attributes:
        labels: int `[b]`, class ids; the number of classes is the null condition.
        attributes: int `[b a]`, the value of each attribute; -1 leaves it open.
        text: `TextFeatures`.
        caption: `Caption`.
        image: `CondImage`.
    """

    labels: Leaf | None = None
    attributes: Leaf | None = None
    text: Leaf | None = None
    caption: Leaf | None = None
    image: Leaf | None = None


Condition: TypeAlias = Int[Array, " b"] | TextFeatures | Conditions | None
"""Class ids, a text's features, several conditions, or nothing."""


def as_conditions(condition: Condition) -> Conditions:
    """The same as `Conditions`."""
    match condition:
        case Conditions():
            return condition
        case TextFeatures():
            return Conditions(text=condition)
        case _:
            return Conditions(labels=condition)


def null_condition(condition: Condition, num_classes: int) -> Condition:
    """The same number of rows that ask for nothing, for guidance (Ho & Salimans 2022).

    A picture to make others from is kept, unless it is all that is asked for: guidance then leads
    to what the text says of it, and not merely to it.
    """
    match condition:
        case None:
            return None
        case TextFeatures():
            return dataclasses.replace(condition, is_null=jnp.ones_like(condition.is_null))
        case Conditions():
            return _null_conditions(condition, num_classes)
        case _:
            return jnp.full_like(condition, num_classes)


def repeat_condition(condition: Any, count: int) -> Any:
    """The condition of one row, for `count` rows."""
    return jax.tree.map(lambda row: jnp.broadcast_to(row[:1], (count, *row.shape[1:])), condition)


def _null_conditions(given: Conditions, num_classes: int) -> Conditions:
    null: dict[str, Any] = {}
    if given.labels is not None:
        null["labels"] = jnp.full_like(given.labels, num_classes)
    if given.attributes is not None:
        null["attributes"] = jnp.full_like(given.attributes, -1)
    if given.text is not None:
        null["text"] = null_condition(given.text, num_classes)
    if given.caption is not None:
        lengths = jnp.zeros_like(given.caption.lengths)
        null["caption"] = dataclasses.replace(given.caption, lengths=lengths)
    if given.image is not None and not null:
        is_null = jnp.ones_like(given.image.is_null)
        null["image"] = dataclasses.replace(given.image, is_null=is_null)
    return dataclasses.replace(given, **null)


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
            embedded.append(look_up(table, jnp.where(is_null, radix, digits[:, place])))
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
        null: Any = self.param("null_features", kernel_init(None, "embed"), shape, jnp.float32)
        text = jnp.where(condition.mask[..., None], condition.features, 0)
        features = jnp.where(condition.is_null[:, None, None], null, text)
        hidden = self._dense("up", (None, "embed"))(features)
        return self._dense("out", ("embed", None))(nn.gelu(hidden, approximate=True))

    def _dense(self, name: str, axes: tuple[str | None, str | None]) -> nn.Dense:
        return nn.Dense(self.embed_dim, use_bias=False, kernel_init=kernel_init(*axes), name=name)


class AttributeEmbedder(nn.Module):
    """Embeds each attribute as one slot of the prefix; -1, which leaves it open, has a row, too.

    Attributes:
        sizes: number of values of each attribute.
        embed_dim: channels `d`.
    """

    sizes: tuple[int, ...]
    embed_dim: int

    @nn.compact
    def __call__(self, attributes: Int[Array, "b a"]) -> Float[Array, "b a d"]:
        """The prefix of each row."""
        embedded = []
        for place, size in enumerate(self.sizes):
            table = self.param(
                f"embedding_{place}",
                kernel_init(None, "embed"),
                (size + 1, self.embed_dim),
                jnp.float32,
            )
            values = attributes[:, place]
            embedded.append(look_up(table, jnp.where(values < 0, size, values)))
        return jnp.stack(embedded, axis=1)

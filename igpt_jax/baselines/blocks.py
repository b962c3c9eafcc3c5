"""Layers that a latent and a class steer, and the network from these to maps of pixels."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.baselines.network_config import NetworkConfig
from igpt_jax.models.conditioning import split_label
from igpt_jax.tokenizers.autoencoder_blocks import (
    MAX_NORM_GROUPS,
    NORM_EPSILON,
    ConvLayer,
    depth_to_space,
)
from igpt_jax.typing import Array, Float, Int, PRNGKey

AFFINE_VARIANCE = 0.1  # of scales and shifts at the start: conditions are felt, but do not rule


class LabelEmbedding(nn.Module):
    """Vectors of a class id: one, or one a digit, which classes share as they share digits.

    Attributes:
        num_classes: ids are 0 to `num_classes` - 1.
        factors: radices of the digits, see `split_label`; () for one vector a class.
        embed_dim: channels `d`.
    """

    num_classes: int
    factors: tuple[int, ...]
    embed_dim: int

    @nn.compact
    def __call__(self, labels: Int[Array, " b"]) -> Float[Array, "b p d"]:
        """Return the vectors of each row, in float32."""
        radices = self.factors or (self.num_classes,)
        digits = split_label(labels, radices)
        tables = [
            self.param(f"embedding_{place}", nn.initializers.normal(1.0), (radix, self.embed_dim))
            for place, radix in enumerate(radices)
        ]
        return jnp.stack([table[digits[:, place]] for place, table in enumerate(tables)], axis=1)


def embed_label(
    config: NetworkConfig, labels: Int[Array, " b"] | None
) -> Float[Array, "b e"] | None:
    """Return a class as one row, None of a model without classes; in a compact module."""
    if not config.num_classes:
        return None
    assert labels is not None
    embedding = LabelEmbedding(
        config.num_classes, config.class_factors, config.class_dim, name="label"
    )
    return embedding(labels).reshape(len(labels), -1)


def example_labels(config: NetworkConfig) -> Int[Array, " 1"] | None:
    """Return one label that shapes parameters, None of a model without classes."""
    return jnp.zeros(1, jnp.int32) if config.num_classes else None


def initial_key(key: PRNGKey) -> PRNGKey:
    """Return a key to draw parameters with, that of another generator.

    On CPUs, a program of thirty draws by the default one takes minutes to compile.
    """
    return jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")


class ConditionalNorm(ConvLayer):
    """Group norm whose scale and shift a condition chooses; without one they are learned.

    Dumoulin et al. 2017, section 2.2, with groups of channels in place of single ones, so that
    nothing depends on the other pictures of a batch.
    """

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], condition: Float[Array, "b e"] | None
    ) -> Float[Array, "b h w c"]:
        """Transform a feature map."""
        if condition is None:
            return self.norm("norm", features)
        channels = features.shape[-1]
        normed = nn.GroupNorm(
            num_groups=math.gcd(MAX_NORM_GROUPS, channels),
            epsilon=NORM_EPSILON,
            use_bias=False,
            use_scale=False,
            use_fast_variance=False,
            name="norm",
            **self.dtypes,
        )(features)
        init = nn.initializers.variance_scaling(AFFINE_VARIANCE, "fan_in", "normal")
        affine = nn.Dense(2 * channels, kernel_init=init, name="affine", **self.dtypes)
        scale, shift = jnp.split(affine(condition)[:, None, None], 2, axis=-1)
        return normed * (1 + scale) + shift


class SteeredBlock(ConvLayer, kw_only=True):
    """Twice norm, swish and convolution, added to the input (Brock et al. 2019, figure 15).

    Attributes:
        channels: channels of the output.
        resize: what happens to height and width: twice as many by nearest neighbour, half as many
            by means, or as they are.
    """

    channels: int
    resize: Literal["up", "down", "same"] = "same"

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], condition: Float[Array, "b e"] | None
    ) -> Float[Array, "b h2 w2 channels"]:
        """Transform a feature map."""
        hidden = nn.swish(ConditionalNorm(name="norm_0", **self.dtypes)(features, condition))
        if self.resize == "up":
            hidden, features = doubled(hidden), doubled(features)
        hidden = self.conv("conv_0", self.channels, hidden)
        hidden = nn.swish(ConditionalNorm(name="norm_1", **self.dtypes)(hidden, condition))
        hidden = self.conv("conv_1", self.channels, hidden)
        if self.resize == "down":
            hidden, features = halved(hidden), halved(features)
        if features.shape[-1] != self.channels:
            features = self.conv("shortcut", self.channels, features, kernel_size=1)
        return features + hidden


def doubled(features: Float[Array, "b h w c"]) -> Float[Array, "b twice_h twice_w c"]:
    """Return maps with each position four times."""
    return features.repeat(2, axis=1).repeat(2, axis=2)


def halved(features: Float[Array, "b h w c"]) -> Float[Array, "b half_h half_w c"]:
    """Return the means of squares of four positions."""
    return nn.avg_pool(features, (2, 2), strides=(2, 2))


class LatentDecoder(ConvLayer, kw_only=True):
    """From a latent and a class to maps as large as the picture.

    Both choose what stands at each place of the smallest maps, and every norm's scale and shift
    above it (Brock et al. 2019, appendix B).

    Attributes:
        config: sizes.
        out_channels: numbers of each pixel.
    """

    config: NetworkConfig
    out_channels: int

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b z"], labels: Int[Array, " b"] | None
    ) -> Float[Array, "b h w out_channels"]:
        """Return maps in float32."""
        config, channels = self.config, self.config.level_channels
        embedded = embed_label(config, labels)
        condition = latents if embedded is None else jnp.concatenate([latents, embedded], axis=1)
        size = config.grid_size
        start = nn.Dense(size**2 * channels[-1], name="start", **self.dtypes)(condition)
        features = start.reshape(-1, size, size, channels[-1])
        for index in reversed(range(len(channels) - 1)):
            block = SteeredBlock(
                channels=channels[index], resize="up", name=f"block_{index}", **self.dtypes
            )
            features = block(features, condition)
        features = nn.swish(self.norm("norm_out", features))
        patches = self.conv("conv_out", self.out_channels * config.patch_size**2, features)
        return depth_to_space(patches.astype(jnp.float32), config.patch_size)

"""The layers of the convolutional encoder and decoder of VQGAN (Esser et al. 2021, appendix E).

The maths is the one that taming-transformers and LlamaGen share, so that their weights load; all
padding is explicit. Feature maps are `[b h w c]`; those of videos have an axis of frames before the
height, over which convolutions are causal and all else works frame by frame.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.tokenizers.video import CausalConv, repeat_frames
from igpt_jax.typing import Array, Float

MAX_NORM_GROUPS = 32
NORM_EPSILON = 1e-6
ASYMMETRIC = ((0, 1), (0, 1))  # pads right and bottom only, before a convolution of stride 2


def space_to_depth(
    images: Float[Array, "b *t h w c"], patch_size: int
) -> Float[Array, "b *t gh gw patch_c"]:
    """Move each `patch_size` square of pixels into the channels of one position."""
    *batch, h, w, c = images.shape
    gh, gw = h // patch_size, w // patch_size
    patches = images.reshape(*batch, gh, patch_size, gw, patch_size, c)
    return patches.swapaxes(-4, -3).reshape(*batch, gh, gw, patch_size**2 * c)


def depth_to_space(
    features: Float[Array, "b *t gh gw patch_c"], patch_size: int
) -> Float[Array, "b *t h w c"]:
    """Undo `space_to_depth`."""
    *batch, gh, gw, patch_c = features.shape
    c = patch_c // patch_size**2
    patches = features.reshape(*batch, gh, gw, patch_size, patch_size, c)
    return patches.swapaxes(-4, -3).reshape(*batch, gh * patch_size, gw * patch_size, c)


class Dtypes(TypedDict):
    """Dtypes of the computation and of the parameters, to hand to a child."""

    dtype: Dtype
    param_dtype: Dtype


class ConvLayer(nn.Module, kw_only=True):
    """What the layers below share: their dtypes, their convolution and their norm.

    Attributes:
        local: see each position alone: kernels of one pixel, and norms of a position's channels.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    local: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def conv(
        self,
        name: str,
        channels: int,
        features: Float[Array, "b *t h w c"],
        *,
        kernel_size: int | None = None,
        stride: int = 1,
        time_stride: int = 1,
        padding: Sequence[tuple[int, int]] | None = None,
    ) -> Float[Array, "b *gt gh gw channels"]:
        """Apply a convolution, by default of 3 x 3; without `padding` height and width stay.

        Over videos it is causal, but for a kernel of one pixel, which sees one frame.
        """
        kernel_size = kernel_size or (1 if self.local else 3)
        is_causal = features.ndim == 5 and kernel_size > 1
        layer = partial(CausalConv, time_stride=time_stride) if is_causal else nn.Conv
        return layer(
            channels,
            (kernel_size, kernel_size),
            strides=(stride, stride),
            padding=padding or [(kernel_size // 2, kernel_size // 2)] * 2,
            name=name,
            **self.dtypes,
        )(features)

    def norm(self, name: str, features: Float[Array, "b *t h w c"]) -> Float[Array, "b *t h w c"]:
        """Apply GroupNorm with as many of the published 32 groups as divide the channels.

        Statistics are those of a frame: later frames must not change it. If `local`, they are those
        of all channels of a position.
        """
        axes = (-1,) if self.local else (-3, -2, -1)
        return nn.GroupNorm(
            num_groups=1 if self.local else math.gcd(MAX_NORM_GROUPS, features.shape[-1]),
            epsilon=NORM_EPSILON,
            reduction_axes=axes,
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels, which shows in parity tests
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(features)

    @property
    def dtypes(self) -> Dtypes:
        """The dtypes, to hand to a child."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class ResBlock(ConvLayer, kw_only=True):
    """Twice norm, swish and convolution, added to the input.

    Attributes:
        channels: channels of the output.
        dropout_rate: dropout before the second convolution.
    """

    channels: int
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, features: Float[Array, "b *t h w c"], *, deterministic: bool
    ) -> Float[Array, "b *t h w channels"]:
        """Transform a feature map."""
        hidden = nn.swish(self.norm("norm_0", features))
        hidden = self.conv("conv_0", self.channels, hidden)
        hidden = nn.swish(self.norm("norm_1", hidden))
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        hidden = self.conv("conv_1", self.channels, hidden)
        if features.shape[-1] != self.channels:
            features = self.conv("shortcut", self.channels, features, kernel_size=1)
        return features + hidden


class SpatialAttention(ConvLayer, kw_only=True):
    """Single-head attention over all positions of a feature map, added to the input."""

    @nn.compact
    def __call__(self, features: Float[Array, "b *t h w c"]) -> Float[Array, "b *t h w c"]:
        """Transform a feature map."""
        *_, h, w, c = features.shape
        normed = self.norm("norm", features)
        query, key, value = (
            self.conv(name, c, normed, kernel_size=1).reshape(-1, h * w, 1, c)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(features.shape)
        return features + self.conv("out", c, mixed, kernel_size=1)


class Downsample(ConvLayer, kw_only=True):
    """Halve height and width by a convolution of stride 2.

    Attributes:
        time_stride: 2 makes 1 + k frames of 1 + 2k, too.
    """

    time_stride: int = 1

    @nn.compact
    def __call__(
        self, features: Float[Array, "b *t h w c"]
    ) -> Float[Array, "b *gt half_h half_w c"]:
        """Transform a feature map."""
        return self.conv(
            "conv",
            features.shape[-1],
            features,
            stride=2,
            time_stride=self.time_stride,
            padding=ASYMMETRIC,
        )


class Upsample(ConvLayer, kw_only=True):
    """Double height and width: nearest neighbour, then a convolution.

    Attributes:
        time_stride: 2 makes 1 + 2k frames of 1 + k, too.
    """

    time_stride: int = 1

    @nn.compact
    def __call__(
        self, features: Float[Array, "b *gt h w c"]
    ) -> Float[Array, "b *t twice_h twice_w c"]:
        """Transform a feature map."""
        if self.time_stride == 2:
            features = repeat_frames(features)
        doubled = features.repeat(2, axis=-3).repeat(2, axis=-2)
        return self.conv("conv", features.shape[-1], doubled)

"""The layers of the convolutional encoder and decoder of VQGAN (Esser et al. 2021, appendix E).

The maths is the one that taming-transformers and LlamaGen share, so that their weights load; all
padding is explicit. Feature maps are `[b h w c]`.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.typing import Array, Float

MAX_NORM_GROUPS = 32
NORM_EPSILON = 1e-6
ASYMMETRIC = ((0, 1), (0, 1))  # pads right and bottom only, before a convolution of stride 2


def space_to_depth(
    images: Float[Array, "b h w c"], patch_size: int
) -> Float[Array, "b gh gw patch_c"]:
    """Move each `patch_size` square of pixels into the channels of one position."""
    b, h, w, c = images.shape
    gh, gw = h // patch_size, w // patch_size
    patches = images.reshape(b, gh, patch_size, gw, patch_size, c)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, gh, gw, patch_size**2 * c)


def depth_to_space(
    features: Float[Array, "b gh gw patch_c"], patch_size: int
) -> Float[Array, "b h w c"]:
    """Undo `space_to_depth`."""
    b, gh, gw, patch_c = features.shape
    c = patch_c // patch_size**2
    patches = features.reshape(b, gh, gw, patch_size, patch_size, c)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, gh * patch_size, gw * patch_size, c)


class Dtypes(TypedDict):
    """Dtypes of the computation and of the parameters, to hand to a child."""

    dtype: Dtype
    param_dtype: Dtype


class ConvLayer(nn.Module, kw_only=True):
    """What the layers below share: their dtypes, their convolution and their norm.

    Attributes:
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def conv(
        self,
        name: str,
        channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: Sequence[tuple[int, int]] | None = None,
    ) -> nn.Conv:
        """Make a convolution; without `padding` the size of the feature map stays."""
        return nn.Conv(
            channels,
            (kernel_size, kernel_size),
            strides=stride,
            padding=padding or [(kernel_size // 2, kernel_size // 2)] * 2,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    def norm(self, name: str, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply GroupNorm with as many of the published 32 groups as divide the channels."""
        return nn.GroupNorm(
            num_groups=math.gcd(MAX_NORM_GROUPS, features.shape[-1]),
            epsilon=NORM_EPSILON,
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
        self, features: Float[Array, "b h w c"], *, deterministic: bool
    ) -> Float[Array, "b h w channels"]:
        """Transform a feature map."""
        hidden = nn.swish(self.norm("norm_0", features))
        hidden = self.conv("conv_0", self.channels)(hidden)
        hidden = nn.swish(self.norm("norm_1", hidden))
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        hidden = self.conv("conv_1", self.channels)(hidden)
        if features.shape[-1] != self.channels:
            features = self.conv("shortcut", self.channels, kernel_size=1)(features)
        return features + hidden


class SpatialAttention(ConvLayer, kw_only=True):
    """Single-head attention over all positions of a feature map, added to the input."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transform a feature map."""
        b, h, w, c = features.shape
        normed = self.norm("norm", features)
        query, key, value = (
            self.conv(name, c, kernel_size=1)(normed).reshape(b, h * w, 1, c)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value)
        return features + self.conv("out", c, kernel_size=1)(mixed.reshape(b, h, w, c))


class Downsample(ConvLayer, kw_only=True):
    """Halve height and width by a convolution of stride 2."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b half_h half_w c"]:
        """Transform a feature map."""
        return self.conv("conv", features.shape[-1], stride=2, padding=ASYMMETRIC)(features)


class Upsample(ConvLayer, kw_only=True):
    """Double height and width: nearest neighbour, then a convolution."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b twice_h twice_w c"]:
        """Transform a feature map."""
        doubled = features.repeat(2, axis=1).repeat(2, axis=2)
        return self.conv("conv", features.shape[-1])(doubled)

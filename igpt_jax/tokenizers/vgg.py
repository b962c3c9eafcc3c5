"""The convolutions of VGG16, whose feature maps tell how alike two images look.

Source: Simonyan and Zisserman 2015, section 2.1 and table 1, column D.
"""

from collections.abc import Mapping
from itertools import count
from typing import Final, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from igpt_jax.interop.weights import take_weight
from igpt_jax.typing import Array, Float, Params

BLOCKS: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of every convolution; the blocks are separated by 2x2 max pooling."""


class VGG16Features(NamedTuple):
    """The output of the last rectified convolution of every block, before pooling."""

    relu1_2: Float[Array, "b h w 64"]
    relu2_2: Float[Array, "b half_h half_w 128"]
    relu3_3: Float[Array, "b quarter_h quarter_w 256"]
    relu4_3: Float[Array, "b eighth_h eighth_w 512"]
    relu5_3: Float[Array, "b sixteenth_h sixteenth_w 512"]


class VGG16(nn.Module):
    """The 13 convolutions of VGG16.

    Attributes:
        dtype: dtype of the computation and of the feature maps.
        param_dtype: dtype of the parameters.
    """

    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> VGG16Features:
        """Return the feature maps of images of 16 or more pixels a side.

        Args:
            images: pixels, with the mean and the standard deviation of ImageNet taken out.
        """
        features = images.astype(self.dtype)
        maps = []
        for block, block_channels in enumerate(BLOCKS):
            if block > 0:
                features = nn.max_pool(features, (2, 2), strides=(2, 2))
            for index, channels in enumerate(block_channels):
                conv = nn.Conv(
                    channels,
                    (3, 3),
                    padding=1,
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                    name=_conv_name(block, index),
                )
                features = nn.relu(conv(features))
            maps.append(features)
        return VGG16Features(*maps)


def vgg16_params(weights: Mapping[str, np.ndarray]) -> Params:
    """Convert published weights of VGG16 to the parameters of `VGG16`, in float32.

    Args:
        weights: arrays in the layout [out, in, 3, 3], by the names of torchvision
            (`features.0.weight`) or of LPIPS (`net.slice1.0.weight`); others are ignored.

    Raises:
        UserError: an entry is missing or has another shape.
    """
    in_lpips_names = any(name.startswith("net.slice") for name in weights)
    params = {}
    in_channels = 3
    # The published index also counts the rectifier after every convolution and the poolings.
    indices = count()
    for block, block_channels in enumerate(BLOCKS):
        prefix = f"net.slice{block + 1}" if in_lpips_names else "features"
        if block > 0:
            next(indices)
        for index, channels in enumerate(block_channels):
            name = f"{prefix}.{next(indices)}"
            next(indices)
            kernel = take_weight(
                weights, f"{name}.weight", (channels, in_channels, 3, 3), model="VGG16"
            )
            bias = take_weight(weights, f"{name}.bias", (channels,), model="VGG16")
            params[_conv_name(block, index)] = {
                "kernel": jnp.asarray(kernel.transpose(2, 3, 1, 0), jnp.float32),
                "bias": jnp.asarray(bias, jnp.float32),
            }
            in_channels = channels
    return params


def _conv_name(block: int, index: int) -> str:
    return f"conv{block + 1}_{index + 1}"

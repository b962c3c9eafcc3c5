"""The blocks and poolings of FID's Inception-v3 (Szegedy et al. 2016)."""

from typing import TypeAlias

import flax.linen as nn
import jax.numpy as jnp

from igpt_jax.evaluation.normed_conv import NormedConv
from igpt_jax.typing import Array, Float

Layer: TypeAlias = tuple[str, int, int | tuple[int, int]]
"""Name, channels and kernel size of one convolution of a branch."""


class Block(nn.Module):
    """What the mixed blocks share: chains of convolutions side by side."""

    def chain(
        self, features: Float[Array, "b h w c"], *layers: Layer, stride: int = 1
    ) -> Float[Array, "b _h _w _c"]:
        """Apply convolutions that keep the size; the last one has the stride, then unpadded."""
        for index, (name, channels, size) in enumerate(layers):
            height, width = size if isinstance(size, tuple) else (size, size)
            last_stride = stride if index == len(layers) - 1 else 1
            padding = (height // 2, width // 2) if last_stride == 1 else (0, 0)
            layer = NormedConv(channels, (height, width), last_stride, padding, name=name)
            features = layer(features)
        return features


class BlockA(Block):
    """The block of the 35 x 35 grid (Szegedy et al. 2016, figure 5).

    Attributes:
        pool_channels: channels of the branch that pools.
    """

    pool_channels: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w _c"]:
        """Transform a feature map."""
        branches = [
            self.chain(features, ("branch1x1", 64, 1)),
            self.chain(features, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
            self.chain(
                features,
                ("branch3x3dbl_1", 64, 1),
                ("branch3x3dbl_2", 96, 3),
                ("branch3x3dbl_3", 96, 3),
            ),
            self.chain(average_pool(features), ("branch_pool", self.pool_channels, 1)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(Block):
    """From the 35 x 35 to the 17 x 17 grid (figure 10)."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Transform a feature map."""
        branches = [
            self.chain(features, ("branch3x3", 384, 3), stride=2),
            self.chain(
                features,
                ("branch3x3dbl_1", 64, 1),
                ("branch3x3dbl_2", 96, 3),
                ("branch3x3dbl_3", 96, 3),
                stride=2,
            ),
            shrinking_max_pool(features),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(Block):
    """The block of the 17 x 17 grid, with kernels 1 x 7 and 7 x 1 (figure 6).

    Attributes:
        inner_channels: channels between the convolutions of a branch.
    """

    inner_channels: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w _c"]:
        """Transform a feature map."""
        inner, row, column = self.inner_channels, (1, 7), (7, 1)
        branches = [
            self.chain(features, ("branch1x1", 192, 1)),
            self.chain(
                features,
                ("branch7x7_1", inner, 1),
                ("branch7x7_2", inner, row),
                ("branch7x7_3", 192, column),
            ),
            self.chain(
                features,
                ("branch7x7dbl_1", inner, 1),
                ("branch7x7dbl_2", inner, column),
                ("branch7x7dbl_3", inner, row),
                ("branch7x7dbl_4", inner, column),
                ("branch7x7dbl_5", 192, row),
            ),
            self.chain(average_pool(features), ("branch_pool", 192, 1)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(Block):
    """From the 17 x 17 to the 8 x 8 grid (figure 10)."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Transform a feature map."""
        branches = [
            self.chain(features, ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3), stride=2),
            self.chain(
                features,
                ("branch7x7x3_1", 192, 1),
                ("branch7x7x3_2", 192, (1, 7)),
                ("branch7x7x3_3", 192, (7, 1)),
                ("branch7x7x3_4", 192, 3),
                stride=2,
            ),
            shrinking_max_pool(features),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockE(Block):
    """The block of the 8 x 8 grid, two of whose branches fork (figure 7).

    Attributes:
        max_pooled: pool by the maximum, as the published network does in its last block.
    """

    max_pooled: bool

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w _c"]:
        """Transform a feature map."""
        single = self.chain(features, ("branch3x3_1", 384, 1))
        double = self.chain(features, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
        pooled = max_pool(features) if self.max_pooled else average_pool(features)
        branches = [
            self.chain(features, ("branch1x1", 320, 1)),
            self.chain(single, ("branch3x3_2a", 384, (1, 3))),
            self.chain(single, ("branch3x3_2b", 384, (3, 1))),
            self.chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            self.chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            self.chain(pooled, ("branch_pool", 192, 1)),
        ]
        return jnp.concatenate(branches, axis=-1)


def average_pool(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return the mean of each 3 x 3 window over what of it lies on the map."""
    return nn.avg_pool(features, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)


def max_pool(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return the maximum of each 3 x 3 window."""
    return nn.max_pool(features, (3, 3), padding=((1, 1), (1, 1)))


def shrinking_max_pool(features: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """Return the maximum of every second 3 x 3 window."""
    return nn.max_pool(features, (3, 3), strides=(2, 2))

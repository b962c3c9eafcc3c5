"""The Inception-v3 of FID (Szegedy et al. 2016; Heusel et al. 2017): pictures to 2048 features.

It is the network of 2015-12-05 that published FIDs use, as pytorch-fid restates it. It departs from
the paper in its pooling: averages leave the padding out, and the last block takes the maximum.
"""

import os
from collections.abc import Mapping
from typing import Final, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from igpt_jax.errors import UserError
from igpt_jax.interop.weights import read_weights, resolve_weights, take_weight
from igpt_jax.typing import Array, Float, Params, UInt8

IMAGE_SIZE: Final = 299
FEATURE_DIM: Final = 2048
_NORM_EPSILON: Final = 1e-3
_LEAVES: Final = {
    "kernel": "conv.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}
_NORM_PARAMS: Final = ("scale", "bias", "mean", "variance")
_UNUSED_START: Final = ("fc.", "AuxLogits.")
_UNUSED_END: Final = ".num_batches_tracked"

Layer: TypeAlias = tuple[str, int, int | tuple[int, int]]
"""Name, channels and kernel size of one convolution of a branch."""


class NormedConv(nn.Module):
    """Convolution, batch norm as at inference, ReLU.

    The statistics of the norm are parameters like the others: nothing here is trained, and an entry
    of the file is an entry of `params`, unchanged.

    Attributes:
        channels: channels of the output.
        kernel_size: height and width.
        stride: of both axes.
        padding: zeros on either side of height and width.
    """

    channels: int
    kernel_size: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b _h _w channels"]:
        """Transform a feature map."""
        shape = (*self.kernel_size, features.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, bias, mean, variance = (
            self.param(name, initializer, (self.channels,))
            for name, initializer in zip(_NORM_PARAMS, (ones, zeros, zeros, ones), strict=True)
        )
        hidden = lax.conv_general_dilated(
            features,
            kernel,
            (self.stride, self.stride),
            [(pad, pad) for pad in self.padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,  # FID must not change with the accelerator
        )
        return nn.relu((hidden - mean) * (scale * lax.rsqrt(variance + _NORM_EPSILON)) + bias)


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


class Inception(nn.Module):
    """Inception-v3 up to its last pooling (`pool3`); submodules have the published names."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        """Return the features of pictures in [-1, 1], 299 x 299 as `preprocess` makes them."""
        hidden = NormedConv(32, (3, 3), stride=2, name="Conv2d_1a_3x3")(images)
        hidden = NormedConv(32, (3, 3), name="Conv2d_2a_3x3")(hidden)
        hidden = NormedConv(64, (3, 3), padding=(1, 1), name="Conv2d_2b_3x3")(hidden)
        hidden = shrinking_max_pool(hidden)
        hidden = NormedConv(80, (1, 1), name="Conv2d_3b_1x1")(hidden)
        hidden = NormedConv(192, (3, 3), name="Conv2d_4a_3x3")(hidden)
        hidden = shrinking_max_pool(hidden)
        for name, pool_channels in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            hidden = BlockA(pool_channels, name=name)(hidden)
        hidden = BlockB(name="Mixed_6a")(hidden)
        for letter, inner_channels in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            hidden = BlockC(inner_channels, name=f"Mixed_6{letter}")(hidden)
        hidden = BlockD(name="Mixed_7a")(hidden)
        hidden = BlockE(max_pooled=False, name="Mixed_7b")(hidden)
        hidden = BlockE(max_pooled=True, name="Mixed_7c")(hidden)
        return jnp.mean(hidden, axis=(1, 2))


def average_pool(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return the mean of each 3 x 3 window over what of it lies on the map."""
    return nn.avg_pool(features, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)


def max_pool(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Return the maximum of each 3 x 3 window."""
    return nn.max_pool(features, (3, 3), padding=((1, 1), (1, 1)))


def shrinking_max_pool(features: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """Return the maximum of every second 3 x 3 window."""
    return nn.max_pool(features, (3, 3), strides=(2, 2))


def preprocess(
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
) -> Float[Array, "b 299 299 3"]:
    """Return pictures in [0, 255] as the network takes them: 299 x 299, in [-1, 1].

    Bilinear between the centres of pixels, without a low-pass filter even where pictures shrink:
    pytorch-fid's way, which other ones of resizing do not agree with (Parmar et al. 2022).
    """
    unit = images.astype(jnp.float32) / 255.0
    rows, columns = (_bilinear_matrix(size) for size in images.shape[1:3])
    tall = jnp.einsum("rh,bhwc->brwc", rows, unit, precision=lax.Precision.HIGHEST)
    resized = jnp.einsum("sw,brwc->brsc", columns, tall, precision=lax.Precision.HIGHEST)
    return 2.0 * resized - 1.0


def _bilinear_matrix(size: int) -> Float[Array, "299 size"]:
    """What each of 299 pixels takes of `size` ones; in float64, for positions round badly."""
    centres = (np.arange(IMAGE_SIZE) + 0.5) * size / IMAGE_SIZE - 0.5
    distances = np.abs(np.clip(centres, 0, size - 1)[:, None] - np.arange(size))
    return jnp.asarray(np.maximum(1.0 - distances, 0.0), jnp.float32)


def inception_features(
    params: Params, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Float[Array, "b 2048"]:
    """Return the features that FID compares, of pictures in [0, 255] of any size."""
    return jnp.asarray(Inception().apply({"params": params}, preprocess(images)))


def inception_params(weights: Mapping[str, np.ndarray]) -> Params:
    """Return the parameters of `Inception` from pytorch-fid's `pt_inception-2015-12-05`.

    Args:
        weights: its state dict, names as published. The classifier (`fc`), the auxiliary one and
            the counts of batches are not used.

    Raises:
        UserError: an entry is missing, has another shape or is not of this network; it is named.
    """
    images = jax.ShapeDtypeStruct((1, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    abstract = jax.eval_shape(Inception().init, jax.random.key(0), images)["params"]
    unread = {name for name in weights if not name.startswith(_UNUSED_START)}
    unread -= {name for name in unread if name.endswith(_UNUSED_END)}

    def entry(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> Float[Array, "..."]:
        *layer, kind = (key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        name = ".".join((*layer, _LEAVES[kind]))
        shape = [leaf.shape[axis] for axis in (3, 2, 0, 1)] if kind == "kernel" else leaf.shape
        value = take_weight(weights, name, shape, model="FID's Inception")
        unread.discard(name)
        return jnp.asarray(value.transpose(2, 3, 1, 0) if kind == "kernel" else value, jnp.float32)

    params = jax.tree_util.tree_map_with_path(entry, abstract)
    if unread:
        raise UserError(
            f"weights of FID's Inception: expected no entry {min(unread)}, got one; "
            "give the file of this model"
        )
    return params


def load_inception(source: str | os.PathLike[str]) -> Params:
    """Read the parameters of `Inception` from a file of pytorch-fid's weights.

    Args:
        source: the file, as `resolve_weights` and `read_weights` take it.

    Raises:
        UserError: the file cannot be read, or holds another network.
    """
    return inception_params(read_weights(resolve_weights(source)))

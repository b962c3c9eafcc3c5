"""The I3D of FVD (Carreira & Zisserman 2017; Unterthiner et al. 2018): videos to features.

It is Inception-v1 (Szegedy et al. 2015) with kernels inflated over time, for RGB frames and the 400
classes of Kinetics. The features of FVD are its logits, averaged over time.
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
from igpt_jax.evaluation.normed_conv import NormedConv
from igpt_jax.evaluation.published_params import published_params
from igpt_jax.interop.weights import read_weights, resolve_weights
from igpt_jax.resize import Resize, bilinear
from igpt_jax.typing import Array, Float, Params, UInt8

IMAGE_SIZE: Final = 224
FEATURE_DIM: Final = 400
MIN_FRAMES: Final = 9  # three times halved, rounded up, they are the 2 that the last pooling takes

BranchChannels: TypeAlias = tuple[int, int, int, int, int, int]
"""Of a block: the branch of one convolution; twice the first and second of two; the pooled one."""

_BLOCKS_3: Final[Mapping[str, BranchChannels]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
}
_BLOCKS_4: Final[Mapping[str, BranchChannels]] = {
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
}
_BLOCKS_5: Final[Mapping[str, BranchChannels]] = {
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_LOGITS: Final = "logits"
_LEAVES: Final = {
    "kernel": "conv3d.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}
_LOGITS_LEAVES: Final = {"kernel": "conv3d.weight", "bias": "conv3d.bias"}
_MODEL: Final = "FVD's I3D"


class InceptionBlock(nn.Module):
    """Four branches side by side (Carreira & Zisserman 2017, figure 3); names as published.

    Attributes:
        channels: of the convolutions, branch after branch.
    """

    channels: BranchChannels

    @nn.compact
    def __call__(self, features: Float[Array, "b t h w c"]) -> Float[Array, "b t h w _c"]:
        """Transform a feature map."""
        alone, first_in, first_out, second_in, second_out, pooled = self.channels
        first = _conv(first_in, 1, name="b1a")(features)
        second = _conv(second_in, 1, name="b2a")(features)
        branches = [
            _conv(alone, 1, name="b0")(features),
            _conv(first_out, 3, name="b1b")(first),
            _conv(second_out, 3, name="b2b")(second),
            _conv(pooled, 1, name="b3b")(max_pool(features, (3, 3, 3), (1, 1, 1))),
        ]
        return jnp.concatenate(branches, axis=-1)


class I3D(nn.Module):
    """The network up to its logits; submodules have the names of pytorch-i3d."""

    @nn.compact
    def __call__(self, videos: Float[Array, "b t 224 224 3"]) -> Float[Array, "b 400"]:
        """Return the features of 9 or more frames in [-1, 1], as `preprocess` makes them."""
        hidden = _conv(64, 7, stride=2, name="Conv3d_1a_7x7")(videos)
        hidden = max_pool(hidden, (1, 3, 3), (1, 2, 2))
        hidden = _conv(64, 1, name="Conv3d_2b_1x1")(hidden)
        hidden = _conv(192, 3, name="Conv3d_2c_3x3")(hidden)
        hidden = max_pool(hidden, (1, 3, 3), (1, 2, 2))
        for name, channels in _BLOCKS_3.items():
            hidden = InceptionBlock(channels, name=name)(hidden)
        hidden = max_pool(hidden, (3, 3, 3), (2, 2, 2))
        for name, channels in _BLOCKS_4.items():
            hidden = InceptionBlock(channels, name=name)(hidden)
        hidden = max_pool(hidden, (2, 2, 2), (2, 2, 2))
        for name, channels in _BLOCKS_5.items():
            hidden = InceptionBlock(channels, name=name)(hidden)
        pooled = nn.avg_pool(hidden, (2, 7, 7))
        precision = lax.Precision.HIGHEST  # FVD must not change with the accelerator
        logits = nn.Conv(FEATURE_DIM, (1, 1, 1), precision=precision, name=_LOGITS)(pooled)
        return jnp.mean(logits, axis=(1, 2, 3))


def max_pool(
    features: Float[Array, "b t h w c"], window: tuple[int, int, int], strides: tuple[int, int, int]
) -> Float[Array, "b _t _h _w c"]:
    """Return the maximum of each window over what of it lies on the map, as TensorFlow's "SAME"."""
    return nn.max_pool(features, window, strides, padding="SAME")


def preprocess(
    videos: UInt8[Array, "b t h w 3"], resize: Resize = "tensorflow"
) -> Float[Array, "b t 224 224 3"]:
    """Return videos in [0, 255] as the network takes them: 224 x 224, in [-1, 1].

    Frames are resized bilinearly whatever their shape, and nothing is cut off.

    Args:
        videos: frames.
        resize: "tensorflow" goes by the upper left corners of pixels, as FVD's own code;
            "pytorch" by their centres, as VideoGPT's.
    """
    b, t, h, w, c = videos.shape
    frames = videos.reshape(b * t, h, w, c).astype(jnp.float32)
    resized = bilinear(frames, (IMAGE_SIZE, IMAGE_SIZE), resize)
    return resized.reshape(b, t, IMAGE_SIZE, IMAGE_SIZE, c) / 127.5 - 1.0


def i3d_features(
    params: Params, videos: UInt8[Array, "b t h w 3"], resize: Resize = "tensorflow"
) -> Float[Array, "b 400"]:
    """Return the features of FVD, of videos of any size and of 9 frames or more."""
    return jnp.asarray(I3D().apply({"params": params}, preprocess(videos, resize)))


def check_num_frames(num_frames: int) -> None:
    """Refuses videos that are too short for the network.

    Raises:
        UserError: tells how many frames it takes.
    """
    if num_frames < MIN_FRAMES:
        raise UserError(
            f"i3d: expected videos of {MIN_FRAMES} or more frames, which its poolings need, got "
            f"{num_frames}; take longer videos, or features of the run"
        )


def i3d_params(weights: Mapping[str, np.ndarray]) -> Params:
    """Return the parameters of `I3D` from a state dict of pytorch-i3d's layout.

    Args:
        weights: names as in VideoGPT's `i3d_pretrained_400.pt` and pytorch-i3d's
            `rgb_imagenet.pt`.

    Raises:
        UserError: an entry is missing, has another shape or is not of this network; it is named.
    """
    videos = jax.ShapeDtypeStruct((1, MIN_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    abstract = jax.eval_shape(I3D().init, jax.random.key(0), videos)["params"]

    def name_of(layer: tuple[str, ...], kind: str) -> str:
        leaves = _LOGITS_LEAVES if layer == (_LOGITS,) else _LEAVES
        return ".".join((*layer, leaves[kind]))

    return published_params(weights, abstract, name_of, model=_MODEL)


def read_i3d(source: str | os.PathLike[str]) -> Params:
    """Read the network from a file.

    Args:
        source: the file, as `resolve_weights` and `read_weights` take it.

    Raises:
        UserError: the file cannot be read, or holds another network.
    """
    return i3d_params(read_weights(resolve_weights(source)))


def _conv(channels: int, size: int, *, stride: int = 1, name: str) -> NormedConv:
    return NormedConv(channels, (size, size, size), stride, "SAME", name=name)

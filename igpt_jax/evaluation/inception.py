"""The Inception-v3 of FID (Szegedy et al. 2016; Heusel et al. 2017): pictures to features.

It is the network of 2015-12-05 that published FIDs use, as pytorch-fid restates it. It departs from
the paper in its pooling: averages leave the padding out, and the last block takes the maximum.
"""

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from igpt_jax.evaluation.inception_blocks import (
    BlockA,
    BlockB,
    BlockC,
    BlockD,
    BlockE,
    shrinking_max_pool,
)
from igpt_jax.evaluation.normed_conv import NormedConv
from igpt_jax.evaluation.published_params import published_params
from igpt_jax.interop.weights import read_weights, resolve_weights, take_weight
from igpt_jax.resize import Resize, bilinear
from igpt_jax.typing import Array, Float, Params, UInt8

IMAGE_SIZE: Final = 299
FEATURE_DIM: Final = 2048
NUM_CLASSES: Final = 1008
NUM_SPATIAL_CHANNELS: Final = 7
SPATIAL_DIM: Final = 17 * 17 * NUM_SPATIAL_CHANNELS

_LEAVES: Final = {
    "kernel": "conv.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}
_CLASSIFIER: Final = "fc.weight"
_OTHERS_START: Final = ("fc.", "AuxLogits.")
_MODEL: Final = "FID's Inception"


class Activations(NamedTuple):
    """What one pass of the network gives.

    Attributes:
        pooled: float32 `[b 2048]`, the features of FID (`pool_3` of the TensorFlow graph).
        spatial: float32 `[b 2023]`, those of sFID (Nash et al. 2021), as ADM's
            evaluation takes them: 17 x 17 places of the first 7 channels of `mixed_6/conv`, which
            is the 1 x 1 branch of `Mixed_6d`.
    """

    pooled: Any
    spatial: Any


class InceptionWeights(NamedTuple):
    """A file of the network.

    Attributes:
        params: of `Inception`.
        classifier: float32 `[2048 1008]`; None where the file has none.
    """

    params: Params
    classifier: Any


class Inception(nn.Module):
    """Inception-v3 up to its last pooling (`pool3`); submodules have the published names."""

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        """Return the features of pictures in [-1, 1], 299 x 299 as `preprocess` makes them."""
        return self.activations(images).pooled

    @nn.compact
    def activations(self, images: Float[Array, "b h w 3"]) -> Activations:
        """Return the features and the spatial features of such pictures."""
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
        for letter, inner_channels in (("b", 128), ("c", 160), ("d", 160)):
            hidden = BlockC(inner_channels, name=f"Mixed_6{letter}")(hidden)
        spatial = hidden[..., :NUM_SPATIAL_CHANNELS].reshape(len(hidden), -1)
        hidden = BlockC(192, name="Mixed_6e")(hidden)
        hidden = BlockD(name="Mixed_7a")(hidden)
        hidden = BlockE(max_pooled=False, name="Mixed_7b")(hidden)
        hidden = BlockE(max_pooled=True, name="Mixed_7c")(hidden)
        return Activations(jnp.mean(hidden, axis=(1, 2)), spatial)


def preprocess(
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], resize: Resize = "pytorch"
) -> Float[Array, "b 299 299 3"]:
    """Return pictures in [0, 255] as the network takes them: 299 x 299, in [-1, 1].

    Bilinear, without a low-pass filter even where pictures shrink, which other ways of resizing do
    not agree with (Parmar et al. 2022).

    Args:
        images: pictures.
        resize: "pytorch" goes by the centres of pixels; "tensorflow" by their upper left corners,
            and divides by 128, as the graph does that TTUR's and ADM's statistics were made with.
    """
    resized = bilinear(images.astype(jnp.float32), (IMAGE_SIZE, IMAGE_SIZE), resize)
    return resized / (127.5 if resize == "pytorch" else 128.0) - 1.0


def inception_activations(
    params: Params,
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
    resize: Resize = "pytorch",
) -> Activations:
    """Return the features of FID and of sFID, of pictures in [0, 255] of any size."""
    prepared = preprocess(images, resize)
    return Activations(*Inception().apply({"params": params}, prepared, method="activations"))


def class_logits(
    classifier: Float[Array, "2048 classes"], pooled: Float[Array, "b 2048"]
) -> Float[Array, "b classes"]:
    """Return the logits of the Inception Score: without the bias, as ADM and torch-fidelity do."""
    return jnp.matmul(pooled, classifier, precision=lax.Precision.HIGHEST)


def inception_params(weights: Mapping[str, np.ndarray]) -> Params:
    """Return the parameters of `Inception` from pytorch-fid's `pt_inception-2015-12-05`.

    Args:
        weights: its state dict, names as published. The classifier (`fc`; see
            `inception_classifier`), the auxiliary one and the counts of batches are not used.

    Raises:
        UserError: an entry is missing, has another shape or is not of this network; it is named.
    """
    images = jax.ShapeDtypeStruct((1, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    abstract = jax.eval_shape(Inception().init, jax.random.key(0), images)["params"]

    def name_of(layer: tuple[str, ...], kind: str) -> str:
        return ".".join((*layer, _LEAVES[kind]))

    return published_params(weights, abstract, name_of, model=_MODEL, unused=_OTHERS_START)


def inception_classifier(
    weights: Mapping[str, np.ndarray],
) -> Float[Array, "2048 classes"] | None:
    """Return the classifier's matrix from the same state dict; None where it has none.

    Raises:
        UserError: it has another shape.
    """
    if _CLASSIFIER not in weights:
        return None
    matrix = take_weight(weights, _CLASSIFIER, (NUM_CLASSES, FEATURE_DIM), model=_MODEL)
    return jnp.asarray(matrix.T, jnp.float32)


def read_inception(source: str | os.PathLike[str]) -> InceptionWeights:
    """Read the network and its classifier from a file of pytorch-fid's weights.

    Args:
        source: the file, as `resolve_weights` and `read_weights` take it.

    Raises:
        UserError: the file cannot be read, or holds another network.
    """
    weights = read_weights(resolve_weights(source))
    return InceptionWeights(inception_params(weights), inception_classifier(weights))

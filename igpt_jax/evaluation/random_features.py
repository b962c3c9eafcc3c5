"""Features of an untrained network: what pictures are compared by where no weights are at hand.

Naeem et al. 2020 measure what is unlike ImageNet's photographs by a VGG16 of random weights, for it
prefers no kind of picture. Distances of its features are not FID, and must be told by other names.
They depend on the weights, hence on the seed.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Features, extract_in_parts, on_all_devices
from igpt_jax.tokenizers.base import to_pixels, tokenizer_hash
from igpt_jax.tokenizers.vgg import BLOCKS, VGG16
from igpt_jax.typing import Array, Float, Params, UInt8

FEATURE_DIM: Final = 64
MIN_IMAGE_SIZE: Final = 16  # four poolings leave one position


def random_feature_params(image_size: int, seed: int = 0) -> Params:
    """Draws the weights for pictures of one size: those of He et al. 2015, section 2.2.

    Raises:
        UserError: the pictures are too small.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise UserError(
            f"random features: expected pictures of {MIN_IMAGE_SIZE} or more pixels a side, got "
            f"{image_size}; use larger ones"
        )
    random = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], gain: float) -> Float[Array, "..."]:
        deviation = math.sqrt(gain / math.prod(shape[:-1]))
        return jnp.asarray(deviation * random.standard_normal(shape, np.float32))

    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes = jax.eval_shape(VGG16().init, jax.random.key(0), images)["params"]
    network = {
        name: {"kernel": draw(layer["kernel"].shape, 2.0), "bias": jnp.zeros(layer["bias"].shape)}
        for name, layer in sorted(shapes.items())
    }
    places = (image_size // MIN_IMAGE_SIZE) ** 2
    return {"network": network, "projection": draw((places * BLOCKS[-1][-1], FEATURE_DIM), 1.0)}


@dataclass(frozen=True)
class RandomExtractor:
    """The features of the network, of pictures of one size.

    Attributes:
        image_size: of the pictures.
        seed: of the weights.
        batch_size: pictures at once.
    """

    image_size: int
    seed: int = 0
    batch_size: int = 64

    @property
    def name(self) -> str:
        """The network, and that nobody trained it."""
        return f"VGG16 of random weights, seed {self.seed}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights."""
        config = json.dumps({"image_size": self.image_size, "seed": self.seed})
        return tokenizer_hash(config, self._params)

    @property
    def network(self) -> None:
        """None."""
        return None

    def __call__(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        """The features of pictures.

        Raises:
            UserError: they are videos, or of another size.
        """
        size = self.image_size
        if images.shape[1:] != (size, size, 3):
            raise UserError(
                f"random features: expected pictures of {size} x {size} pixels, got shape "
                f"{list(images.shape)}; make an extractor of their size"
            )
        return extract_in_parts(partial(_features, self._placed), self.batch_size, images)

    @cached_property
    def _params(self) -> Params:
        return random_feature_params(self.image_size, self.seed)

    @cached_property
    def _placed(self) -> Params:
        return on_all_devices(self._params)


def _features(params: Params, images: UInt8[Array, "b h w 3"]) -> Features:
    return Features(random_features(params, images))


@jax.jit
def random_features(
    params: Params, images: UInt8[Array, "b h w 3"] | UInt8[np.ndarray, "b h w 3"]
) -> Float[Array, "b 64"]:
    """Return features of pictures of the size that `params` were drawn for."""
    last = jnp.asarray(VGG16().apply({"params": params["network"]}, to_pixels(images))[-1])
    return last.reshape(len(last), -1) @ params["projection"]

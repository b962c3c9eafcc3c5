"""Features of an untrained network: a ruler for pictures where no weights are at hand.

Naeem et al. 2020 measure what is unlike ImageNet's photographs by a VGG16 of random weights, for it
prefers no kind of picture. Distances of its features are not FID, and must be told by other names.
They depend on the weights, hence on the seed.
"""

import math
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.base import to_pixels
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


@jax.jit
def random_features(
    params: Params, images: UInt8[Array, "b h w 3"] | UInt8[np.ndarray, "b h w 3"]
) -> Float[Array, "b 64"]:
    """Return features of pictures of the size that `params` were drawn for."""
    last = jnp.asarray(VGG16().apply({"params": params["network"]}, to_pixels(images))[-1])
    return last.reshape(len(last), -1) @ params["projection"]

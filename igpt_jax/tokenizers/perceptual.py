"""How different two images look: LPIPS, which needs weights, and Laplacian pyramids, which do not.

A tokenizer trained on pixel errors alone blurs; these terms are added to them. Images are
`[b h w 3]` in [-1, 1], distances are float32 and one an image.
"""

import os
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.interop.weights import read_weights, resolve_weights, take_weight
from igpt_jax.tokenizers.vgg import BLOCKS, VGG16, vgg16_params
from igpt_jax.typing import Array, Float, Params

# ImageNet's mean and standard deviation, moved from [0, 1] to [-1, 1].
SHIFT: Final = (-0.030, -0.088, -0.188)
SCALE: Final = (0.458, 0.448, 0.450)
NORM_EPSILON: Final = 1e-10
MIN_LPIPS_SIZE: Final = 16  # four poolings leave one pixel
MIN_PYRAMID_SIZE: Final = 4
BINOMIAL: Final = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class LPIPS(nn.Module):
    """The learned perceptual distance with VGG16 (Zhang et al. 2018, section 3, equation 1).

    It computes version 0.1 of the published package without dropout. Its gradient is finite
    everywhere, also where two images agree or all features are zero.

    Attributes:
        dtype: dtype of VGG16; normalisation and distances are float32.
    """

    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the parts."""
        self.vgg = VGG16(dtype=self.dtype)
        self.linear = [
            self.param(f"linear_{index}", nn.initializers.ones, (channels[-1],), jnp.float32)
            for index, channels in enumerate(BLOCKS)
        ]

    def __call__(
        self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]
    ) -> Float[Array, " b"]:
        """Return the distance of every image of `x` to the one of `y` in its place, 0 if equal.

        Raises:
            UserError: the images are smaller than 16 pixels a side.
        """
        if min(x.shape[1:3]) < MIN_LPIPS_SIZE:
            raise UserError(
                f"LPIPS: expected images of {MIN_LPIPS_SIZE} or more pixels a side, got "
                f"{x.shape[1]}x{x.shape[2]}; enlarge them or use laplacian_pyramid_loss"
            )
        # Not one doubled batch: most callers differentiate by one side only.
        maps = zip(self.linear, self._features(x), self._features(y), strict=True)
        distance = jnp.zeros(x.shape[0], jnp.float32)
        for weight, of_x, of_y in maps:
            distance += jnp.mean(jnp.sum(weight * (of_x - of_y) ** 2, axis=-1), axis=(1, 2))
        return distance

    def _features(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        scaled = (images.astype(jnp.float32) - jnp.array(SHIFT)) / jnp.array(SCALE)
        return [unit_normalize(features.astype(jnp.float32)) for features in self.vgg(scaled)]


def unit_normalize(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Divide by the norm over the channels; zeros stay zeros and keep a finite gradient."""
    squared_norm = jnp.sum(features**2, axis=-1, keepdims=True)
    is_zero = squared_norm == 0
    # The inner `where` keeps the infinite slope of the root at 0 out of the gradient.
    norm = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squared_norm)))
    return features / (norm + NORM_EPSILON)


def load_lpips(
    vgg_source: str | os.PathLike[str], linear_source: str | os.PathLike[str] | None = None
) -> Params:
    """Load the parameters of `LPIPS` from published weights.

    Args:
        vgg_source: file or `hub:ORG/NAME/FILE` with VGG16, in the names of torchvision or LPIPS.
        linear_source: the same for the linear layers (`lin0.model.1.weight`, ...), such as
            `weights/v0.1/vgg.pth` of the package lpips; None if `vgg_source` has them.

    Raises:
        UserError: a file cannot be read, or an entry is missing, misshapen or negative.
    """
    weights = read_weights(resolve_weights(vgg_source))
    params: dict[str, Any] = {"vgg": vgg16_params(weights)}
    if linear_source is not None:
        weights = read_weights(resolve_weights(linear_source))
    if not any(name.startswith("lin") for name in weights):
        raise UserError(
            f"LPIPS: expected the linear layers lin0.model.1.weight ... in "
            f"{linear_source or vgg_source}, got none; give weights/v0.1/vgg.pth of the package "
            "lpips as linear_source"
        )
    for index, channels in enumerate(BLOCKS):
        name = f"lin{index}.model.1.weight"
        weight = take_weight(weights, name, (1, channels[-1], 1, 1), model="LPIPS")
        if not np.all(weight >= 0):  # also refuses NaN
            raise UserError(
                f"weights of LPIPS: expected {name} to be 0 or more, got "
                f"{float(np.min(weight)):.4g}; give the published file"
            )
        params[f"linear_{index}"] = jnp.asarray(weight.reshape(-1), jnp.float32)
    return params


def laplacian_pyramid_loss(
    x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"], *, num_levels: int | None = None
) -> Float[Array, " b"]:
    """Return the L1 distance of the Laplacian pyramids of images, the sum of its levels' means.

    Each level is averaged over its pixels and channels, which is the paper's weight 2^2j of its
    sums: coarse structure counts as much as fine detail.

    Sources: the Lap1 loss of Bojanowski et al. 2018 (GLO), section 3.1; the pyramid of Burt and
    Adelson 1983, with a 5x5 binomial kernel and reflected borders.

    Args:
        x: images.
        y: images to compare them with.
        num_levels: number of levels, the last of which is the blurred rest; 1 is the plain L1
            distance, None as many as leave the rest 4 or more pixels a side.

    Raises:
        UserError: `num_levels` is below 1 or more than the size allows.
    """
    sizes = x.shape[1], x.shape[2]
    max_levels = default_num_levels(sizes)
    num_levels = max_levels if num_levels is None else num_levels
    if not 1 <= num_levels <= max_levels:
        raise UserError(
            f"num_levels: expected 1 to {max_levels} for images of {sizes[0]}x{sizes[1]}, got "
            f"{num_levels}; leave it None for {max_levels}"
        )
    # The pyramid is linear: that of the difference is the difference of the two.
    rest = x.astype(jnp.float32) - y.astype(jnp.float32)
    loss = jnp.zeros(x.shape[0], jnp.float32)
    for _ in range(num_levels - 1):
        smaller = _blur(rest)[:, ::2, ::2]
        detail = rest - _expand(smaller, rest.shape)
        loss += _mean_magnitude(detail)
        rest = smaller
    return loss + _mean_magnitude(rest)


def default_num_levels(sizes: tuple[int, int]) -> int:
    """Return how many levels leave the coarsest 4 or more pixels on the shorter side."""
    side, num_levels = min(sizes), 1
    while (side := (side + 1) // 2) >= MIN_PYRAMID_SIZE:
        num_levels += 1
    return num_levels


def _mean_magnitude(images: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    # Not `abs`, whose slope JAX takes to be 1 at 0: equal images have no gradient.
    return jnp.mean(jnp.sign(images) * images, axis=(1, 2, 3))


def _blur(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    for axis in (1, 2):
        widths = [(2, 2) if axis == padded_axis else (0, 0) for padded_axis in range(4)]
        padded = jnp.pad(images, widths, mode="reflect")
        size = images.shape[axis]
        images = sum(
            (
                weight * jax.lax.slice_in_dim(padded, shift, shift + size, axis=axis)
                for shift, weight in enumerate(BINOMIAL)
            ),
            start=jnp.zeros_like(images),
        )
    return images


def _expand(
    images: Float[Array, "b h w c"], shape: tuple[int, ...]
) -> Float[Array, "b big_h big_w c"]:
    # Half the taps of either axis meet a zero, hence the 4; reflection keeps the parity of a
    # position, so this holds at the borders too.
    spread = jnp.zeros(shape, images.dtype).at[:, ::2, ::2].set(images)
    return 4.0 * _blur(spread)

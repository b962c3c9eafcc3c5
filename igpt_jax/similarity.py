"""How near reconstructed images are to their originals, pixel by pixel: PSNR and SSIM."""

import functools
from typing import Final, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Float

WINDOW_SIZE: Final = 11  # pixels; sigma 1.5 cut off at 3.5 sigma
_SIGMA: Final = 1.5
_MEAN_STABILITY: Final = 0.01**2  # C1 and C2 of Wang et al. for pixels in [0, 1]
_CONTRAST_STABILITY: Final = 0.03**2
_LEAST_SQUARED_ERROR: Final = 1e-10


def psnr(
    images: Float[Array, "b h w c"], reconstruction: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Return the peak signal-to-noise ratio of each image in dB.

    Args:
        images: pixels in [-1, 1], so that the peak is 2.
        reconstruction: clipped to [-1, 1] first.

    Returns:
        One value per image; 106 dB where the two are equal.
    """
    error = images - jnp.clip(reconstruction, -1.0, 1.0)
    mean_squared_error = jnp.mean(error**2, axis=(1, 2, 3))
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mean_squared_error, _LEAST_SQUARED_ERROR))


def ssim(
    images: Float[Array, "b h w c"], reconstruction: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Return the structural similarity of each image (Wang et al. 2004, section III).

    The luminance term is not free of the offset of the pixels; they are taken as in the paper, from
    black = 0. The window is Gaussian, and the mean is over channels and wherever the window fits.

    Args:
        images: pixels in [-1, 1], at least 11 a side.
        reconstruction: clipped to [-1, 1] first.

    Returns:
        One value per image, 1 where the two are equal.

    Raises:
        UserError: the window fits nowhere.
    """
    height, width = images.shape[1:3]
    if min(height, width) < WINDOW_SIZE:
        raise UserError(
            f"SSIM expects images of at least {WINDOW_SIZE} x {WINDOW_SIZE} pixels, "
            f"got {height} x {width}; use larger images"
        )
    first = (images + 1.0) / 2.0
    second = (jnp.clip(reconstruction, -1.0, 1.0) + 1.0) / 2.0
    within_columns = _moments(first, second, 1)
    across_columns = _moments(within_columns.first_mean, within_columns.second_mean, 2)
    x, y = across_columns.first_mean, across_columns.second_mean
    variances = _smooth(within_columns.variances, 2) + across_columns.variances
    covariance = _smooth(within_columns.covariance, 2) + across_columns.covariance
    luminance = (2.0 * x * y + _MEAN_STABILITY) / (x**2 + y**2 + _MEAN_STABILITY)
    structure = (2.0 * covariance + _CONTRAST_STABILITY) / (variances + _CONTRAST_STABILITY)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


class _Moments(NamedTuple):
    """The window's moments of two images where the window fits; `variances` is their sum."""

    first_mean: Float[Array, "b h w c"]
    second_mean: Float[Array, "b h w c"]
    variances: Float[Array, "b h w c"]
    covariance: Float[Array, "b h w c"]


def _moments(
    first: Float[Array, "b h w c"], second: Float[Array, "b h w c"], axis: int
) -> _Moments:
    """The moments along one axis.

    The second ones are those of deviations: the shorter E[xy] - E[x] E[y] loses in float32 what
    flat regions are judged by. In two dimensions they are, by the law of total covariance, the mean
    of those within columns and those of the columns' means.
    """
    x_mean, y_mean = _smooth(first, axis), _smooth(second, axis)
    shifts = zip(_shifts(first, axis), _shifts(second, axis), strict=True)
    deviations = [(x - x_mean, y - y_mean) for x, y in shifts]
    variances = _weighted_sum([x**2 + y**2 for x, y in deviations])
    return _Moments(x_mean, y_mean, variances, _weighted_sum([x * y for x, y in deviations]))


def _smooth(values: Float[Array, "b h w c"], axis: int) -> Float[Array, "b _h _w c"]:
    """The window's mean along one axis."""
    return _weighted_sum(_shifts(values, axis))


def _shifts(values: Float[Array, "b h w c"], axis: int) -> list[Float[Array, "b _h _w c"]]:
    """What each weight of the window meets, where the window fits."""
    length = values.shape[axis] - WINDOW_SIZE + 1
    return [lax.slice_in_dim(values, i, i + length, axis=axis) for i in range(WINDOW_SIZE)]


def _weighted_sum(terms: list[Float[Array, "b h w c"]]) -> Float[Array, "b h w c"]:
    """The sum of one term for each weight of the Gaussian window along one axis."""
    offsets = np.arange(WINDOW_SIZE) - WINDOW_SIZE // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    products = [weight * term for weight, term in zip(weights.tolist(), terms, strict=True)]
    return functools.reduce(jnp.add, products)

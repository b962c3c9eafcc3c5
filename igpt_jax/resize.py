"""Resizing as PyTorch does it, or TensorFlow 1, for what published results depend on it.

All kinds are linear and separable: one small matrix for the rows, one for the columns.
`jax.image.resize` has another cubic kernel (a = -0.5) and blurs before it makes images smaller.
"""

from functools import cache
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.typing import Array, Float

Resize: TypeAlias = Literal["pytorch", "tensorflow"]
"""Where the pixels of bilinear resizing are: the two differ by half a pixel."""

SHARPNESS = -0.75  # a of the cubic kernel (Keys 1981, equation 4, has -0.5)


def bicubic(
    images: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b rows columns c"]:
    """Return images of another size by cubic interpolation.

    Same as `interpolate(mode="bicubic", align_corners=False, antialias=False)` of PyTorch: the
    kernel of Keys (1981, section 2) with a = -0.75, pixels repeated beyond the border. Values may
    leave the range of the input.

    Args:
        images: any floats.
        size: rows and columns of the result.
    """
    _, h, w, _ = images.shape
    return _apply(images, _bicubic_matrix(h, size[0]), _bicubic_matrix(w, size[1]))


def area(
    images: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b rows columns c"]:
    """Return images of another size by the mean of all pixels that a new pixel touches.

    Same as `interpolate(mode="area")` of PyTorch, which is adaptive average pooling: pixels on a
    border count fully for both sides.

    Args:
        images: any floats.
        size: rows and columns of the result.
    """
    _, h, w, _ = images.shape
    return _apply(images, _area_matrix(h, size[0]), _area_matrix(w, size[1]))


def bilinear(
    images: Float[Array, "b h w c"], size: tuple[int, int], kind: Resize = "pytorch"
) -> Float[Array, "b rows columns c"]:
    """Return images of another size by linear interpolation, without blur where they shrink.

    Args:
        images: any floats.
        size: rows and columns of the result.
        kind: "pytorch" goes by the centres of pixels, as `interpolate(mode="bilinear",
            align_corners=False)`; "tensorflow" by their upper left corners, as TensorFlow 1's
            `resize_bilinear`.
    """
    _, h, w, _ = images.shape
    return _apply(images, _bilinear_matrix(h, size[0], kind), _bilinear_matrix(w, size[1], kind))


def _apply(
    images: Float[Array, "b h w c"],
    over_rows: Float[np.ndarray, "rows h"],
    over_columns: Float[np.ndarray, "columns w"],
) -> Float[Array, "b rows columns c"]:
    return jnp.einsum(
        "bhwc,yh,xw->byxc",
        images.astype(jnp.float32),
        over_rows,
        over_columns,
        precision=jax.lax.Precision.HIGHEST,
    ).astype(images.dtype)


@cache
def _bilinear_matrix(old: int, new: int, kind: Resize) -> Float[np.ndarray, "new old"]:
    """Weight of each old pixel in each new one."""
    if kind == "pytorch":  # in float64, for positions round badly
        places = (np.arange(new) + 0.5) * old / new - 0.5
    else:  # in float32, as TensorFlow
        places = np.arange(new, dtype=np.float32) * np.float32(old / new)
    distances = np.abs(np.clip(places, 0, old - 1)[:, None] - np.arange(old))
    return np.maximum(1.0 - distances, 0.0).astype(np.float32)


@cache
def _bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weight of each old pixel in each new one."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centers).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        weights = _cubic(np.abs(centers - first - tap))
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weights)
    return matrix.astype(np.float32)


def _cubic(distance: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The kernel at distances of 0 to 2 pixels."""
    a, x = SHARPNESS, distance
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, far)


@cache
def _area_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weight of each old pixel in each new one."""
    index = np.arange(new)
    start, stop = index * old // new, -(-(index + 1) * old // new)
    pixels = np.arange(old)
    inside = (pixels >= start[:, None]) & (pixels < stop[:, None])
    return (inside / (stop - start)[:, None]).astype(np.float32)

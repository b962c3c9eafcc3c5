"""Conditions made from the picture itself: its grey version, a small one, its edges.

Each is an RGB picture of the same size as the picture, so that one tokenizer reads both. Grey and
small pictures hold a part of the picture exactly, in whole numbers; `known_signal` puts it back.
"""

from dataclasses import dataclass
from types import EllipsisType
from typing import Final, TypeAlias

import numpy as np
from scipy import ndimage

from igpt_jax.data.color import LUMA
from igpt_jax.data.geometry import center_crop, resize
from igpt_jax.errors import UserError
from igpt_jax.typing import Bool, Float, Int, UInt8

LUMA_UNIT: Final = 1000
"""Luma is counted in thousandths of a level: the Rec. 601 weights are whole thousandths."""

_LUMA_WEIGHTS: Final = np.rint(LUMA * LUMA_UNIT).astype(np.int64)

_SOBEL_GAIN: Final = 8  # of a slope of one level a pixel
_TIE: Final = 1e-6  # levels; equal slopes on both sides of a step differ by rounding
_EIGHT_NEIGHBOURS: Final = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class GreyConfig:
    """The luma of the picture (ITU-R BT.601, as in JPEG) in three equal channels: colouring."""


@dataclass(frozen=True)
class SmallConfig:
    """The picture with fewer pixels, enlarged to its size again: super-resolution.

    The small picture is the mean of each block of pixels, rounded to bytes. It is enlarged by
    bicubic interpolation, and then each block is set to its mean again. So the condition is as
    smooth as the pictures that tokenizers are made for, and still the means of its blocks are the
    small picture exactly, which those of a plain bicubic enlargement are not.

    Attributes:
        factor: Side of a block in pixels; it must divide the size of the picture.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise UserError(
                f"SmallConfig.factor: expected at least 2, got {self.factor}; change it"
            )


@dataclass(frozen=True)
class EdgesConfig:
    """The edges of the picture's luma, white on black (Canny 1986).

    Attributes:
        sigma: Standard deviation of the Gaussian that smooths first, in pixels.
        low: Slope, in levels of 0 to 255 a pixel, from which on a ridge of slopes is an edge if it
            is connected to one of at least `high`.
        high: Slope of a certain edge.
    """

    sigma: float = 1.0
    low: float = 4.0
    high: float = 10.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise UserError(f"EdgesConfig.sigma: expected more than 0, got {self.sigma}; change it")
        if not 0 < self.low <= self.high:
            raise UserError(
                f"EdgesConfig.low, high: expected 0 < low <= high, got {self.low}, {self.high}; "
                "change them"
            )


ConditionImageConfig: TypeAlias = GreyConfig | SmallConfig | EdgesConfig


def make_condition_image(
    config: ConditionImageConfig, image: UInt8[np.ndarray, "h w 3"], image_size: int
) -> UInt8[np.ndarray, "s s 3"]:
    """Makes the condition of a picture.

    Grey and small conditions are their own conditions.

    Args:
        config: Which condition.
        image: A picture of any size, of which the middle square is taken as for validation. For
            `SmallConfig`, one with a shorter side below `image_size` is already small: it is
            brought to image_size / factor, if it is not of that size, and then only enlarged.
        image_size: Side of the result, in pixels.

    Raises:
        UserError: `SmallConfig.factor` does not divide the size.
    """
    match config:
        case GreyConfig():
            return _as_rgb(luma(center_crop(image, image_size)))
        case SmallConfig(factor):
            _check_factor(factor, image_size, image_size)
            if min(image.shape[:2]) < image_size:
                small = center_crop(image, image_size // factor)
            else:
                small = block_means(center_crop(image, image_size), factor)
            return set_block_means(resize(small, image_size, image_size)[None], small[None])[0]
        case EdgesConfig():
            return _as_rgb(find_edges(config, center_crop(image, image_size)))


def luma_thousandths(images: UInt8[np.ndarray, "*b h w 3"]) -> Int[np.ndarray, "*b h w"]:
    """Weighs red, green and blue as ITU-R BT.601 does: exact, 0 to 255 thousand."""
    return images @ _LUMA_WEIGHTS


def luma(images: UInt8[np.ndarray, "*b h w 3"]) -> UInt8[np.ndarray, "*b h w"]:
    """Rounds the luma to bytes, halves up; the luma of a grey is this grey."""
    return ((luma_thousandths(images) + LUMA_UNIT // 2) // LUMA_UNIT).astype(np.uint8)


def block_means(
    images: UInt8[np.ndarray, "*b h w 3"], factor: int
) -> UInt8[np.ndarray, "*b small_h small_w 3"]:
    """Reduces pictures to the mean of each factor x factor block, rounded to bytes, halves up.

    Raises:
        UserError: `factor` does not divide the size.
    """
    _check_factor(factor, *images.shape[-3:-1])
    total = _blocks(images, factor).sum(axis=0)
    return ((2 * total + factor**2) // (2 * factor**2)).astype(np.uint8)


def set_block_means(
    images: UInt8[np.ndarray, "b h w 3"], small: UInt8[np.ndarray, "b small_h small_w 3"]
) -> UInt8[np.ndarray, "b h w 3"]:
    """Changes pictures as little as possible, so that their `block_means` are the small ones.

    The nearest pixels to a block of which the sum is prescribed and the values are in 0..255 are
    the block plus one number, clipped (the conditions of Karush, Kuhn and Tucker). The number is
    found by bisection among the integers; what is left, less than one level a pixel, goes to the
    first pixels that can rise. Back-projection (Irani & Peleg 1991, section 3) repeats an
    approximate step instead. A block that has the mean already does not change.
    """
    factor = images.shape[1] // small.shape[1]
    count = factor**2
    blocks = _blocks(images, factor)
    wanted = small.astype(np.int32) * count
    # What is rounded to the same byte is as good as the mean itself.
    wanted = np.clip(blocks.sum(axis=0), wanted - count // 2, wanted + (count - 1) // 2)
    shift = np.full_like(wanted, -255)
    for step in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        fits = np.clip(blocks + (shift + step), 0, 255).sum(axis=0) <= wanted
        shift += step * fits
    moved = np.clip(blocks + shift, 0, 255)
    can_rise = np.clip(blocks + (shift + 1), 0, 255) > moved
    moved += can_rise & (np.cumsum(can_rise, axis=0) <= wanted - moved.sum(axis=0))
    result = np.empty_like(images)
    for view, pixels in zip(_views(factor), moved, strict=True):
        result[view] = pixels
    return result


def find_edges(config: EdgesConfig, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Draws the edges of the luma, 255 on 0, one pixel wide (Canny 1986, sections V and VI).

    Smoothing, slopes by Sobel's masks, the ridges of the slopes, and of these whatever is connected
    to a steep place, over corners too (hysteresis). Beyond the border the picture's edge repeats.
    """
    smooth = ndimage.gaussian_filter(luma(image).astype(np.float64), config.sigma, mode="nearest")
    slopes = np.stack([ndimage.sobel(smooth, axis, mode="nearest") for axis in (0, 1)])
    slopes /= _SOBEL_GAIN
    steepness = np.hypot(*slopes)
    ridge = _is_ridge(slopes, steepness)
    edges = ndimage.binary_propagation(
        ridge & (steepness >= config.high),
        _EIGHT_NEIGHBOURS,
        mask=ridge & (steepness >= config.low),
    )
    return edges.astype(np.uint8) * np.uint8(255)


def _is_ridge(
    slopes: Float[np.ndarray, "2 h w"], steepness: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Whether a pixel is steeper than the places before and behind it, in the slope's direction.

    These lie between two of the eight neighbours, and are interpolated linearly. Of two equal
    pixels the one on the dark side is the ridge.
    """
    step = slopes / np.maximum(np.abs(slopes).max(axis=0), _TIE)
    here = np.indices(steepness.shape)
    uphill, downhill = (
        ndimage.map_coordinates(steepness, here + side * step, order=1) for side in (1, -1)
    )
    return (steepness >= uphill - _TIE) & (steepness > downhill + _TIE)


def _blocks(
    images: UInt8[np.ndarray, "*b h w 3"], factor: int
) -> Int[np.ndarray, "count *b small_h small_w 3"]:
    """The pixels of each block along a new first axis, row by row."""
    return np.stack([images[view] for view in _views(factor)]).astype(np.int32)


def _views(factor: int) -> list[tuple[EllipsisType, slice, slice, slice]]:
    """The index of the first pixel of all blocks, of the second, and so on."""
    return [
        (..., slice(row, None, factor), slice(column, None, factor), slice(None))
        for row, column in np.ndindex(factor, factor)
    ]


def _as_rgb(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.repeat(grey[..., None], 3, axis=-1)


def _check_factor(factor: int, height: int, width: int) -> None:
    if height % factor or width % factor:
        raise UserError(
            f"SmallConfig.factor: expected a divisor of the size of the pictures, got {factor} for "
            f"{width} x {height} pixels; change one of them"
        )

"""Brightness, contrast, saturation and colour balance of 8-bit RGB.

A factor of 1 changes nothing. Results are rounded and clipped; the mixtures are those of
Pillow's `ImageEnhance` and torchvision's `ColorJitter`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from igpt_jax.typing import Float, UInt8

LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Rec. 601 weights of red, green and blue in grey."""

_EPSILON: Final = 1e-6


def adjust_brightness(
    image: UInt8[np.ndarray, "h w 3"], factor: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Mix with black: 0 is black, 2 is twice as bright."""
    return _to_bytes(image * np.float32(factor))


def adjust_contrast(image: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """Mix with the mean grey of the picture: 0 is uniformly grey."""
    return _mix(image, np.rint((image @ LUMA).mean()), factor)


def adjust_saturation(
    image: UInt8[np.ndarray, "h w 3"], factor: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Mix with the grey picture: 0 has no colour."""
    return _mix(image, np.rint(image @ LUMA)[..., None], factor)


def adjust_color_balance(
    image: UInt8[np.ndarray, "h w 3"], gains: Sequence[float] | Float[np.ndarray, "3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Multiply red, green and blue by one gain each."""
    return _to_bytes(image * np.asarray(gains, dtype=np.float32))


def grey_world_gains(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3"]:
    """Gains that make the channel means equal: white balance by the grey-world assumption.

    Buchsbaum 1980, "A spatial processor model for object colour perception": the average
    colour of a scene is taken for grey. A channel that is black everywhere keeps gain 1.
    """
    means = image.mean(axis=(0, 1), dtype=np.float64)
    gains = np.where(means > _EPSILON, means.mean() / np.maximum(means, _EPSILON), 1.0)
    return gains.astype(np.float32)


def _mix(
    image: UInt8[np.ndarray, "h w 3"], base: np.ndarray | np.floating, factor: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Move from `base` (factor 0) to the picture (factor 1), or beyond."""
    weight = np.float32(factor)
    return _to_bytes(base + weight * (image - base))


def _to_bytes(values: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

"""Noise filters that keep edges, on 8-bit RGB."""

import numpy as np
from PIL import Image, ImageFilter

from igpt_jax.typing import UInt8


def denoise_median(
    image: UInt8[np.ndarray, "h w 3"], radius: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """Take the median of each channel over a square of side 2 * radius + 1 pixels.

    Removes single wrong pixels ("salt and pepper"); beyond the border the edge repeats.
    """
    return np.array(Image.fromarray(image).filter(ImageFilter.MedianFilter(2 * radius + 1)))


def denoise_bilateral(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    radius: int = 2,
    sigma_space: float = 1.5,
    sigma_color: float = 25.0,
) -> UInt8[np.ndarray, "h w 3"]:
    """Average neighbours that are near in place and in colour (Tomasi & Manduchi 1998).

    Args:
        image: The picture.
        radius: Reach of the window, in pixels; beyond the border the edge repeats.
        sigma_space: Standard deviation of the weight over distance, in pixels.
        sigma_color: Standard deviation of the weight over colour, in levels of 0 to 255, of
            the Euclidean distance in RGB.

    Returns:
        The filtered picture: flat regions are smoothed, steps well above `sigma_color` stay.
    """
    height, width = image.shape[:2]
    center = image.astype(np.float32)
    padded = np.pad(center, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    total = np.zeros_like(center)
    weights = np.zeros((height, width, 1), dtype=np.float32)
    # One pass of whole-picture arithmetic for each offset: (2 radius + 1)^2 passes in all.
    for down, right in np.ndindex(2 * radius + 1, 2 * radius + 1):
        neighbour = padded[down : down + height, right : right + width]
        distance = (down - radius) ** 2 + (right - radius) ** 2
        contrast = ((neighbour - center) ** 2).sum(axis=-1, keepdims=True)
        weight = np.exp(
            -np.float32(distance / (2 * sigma_space**2)) - contrast / np.float32(2 * sigma_color**2)
        )
        total += weight * neighbour
        weights += weight
    return np.rint(total / weights).astype(np.uint8)

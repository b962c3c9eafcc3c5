"""Crops, flips and sizes: pure functions on 8-bit RGB, with Pillow's antialiased resampling."""

import math
from typing import Final

import numpy as np
from PIL import Image

from igpt_jax.data.images import MAX_PIXELS, BrokenImageError
from igpt_jax.typing import UInt8

_CROP_ATTEMPTS: Final = 10


def resize(
    image: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resample the whole picture to height x width (bicubic), whatever its proportions."""
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Scale the shorter side to `size` and cut the middle square, exactly as ADM does.

    The same arithmetic as `center_crop_arr` of guided-diffusion (Dhariwal & Nichol 2021), which
    later work on ImageNet follows: box halvings first, then one bicubic step.
    """
    scaled = _scale_short_side(image, size)
    top = (scaled.shape[0] - size) // 2
    left = (scaled.shape[1] - size) // 2
    return _window(scaled, top, left, size)


def random_crop(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    rng: np.random.Generator,
    *,
    min_share: float = 0.8,
    max_share: float = 1.0,
) -> UInt8[np.ndarray, "s s 3"]:
    """Cut a random square that covers `min_share` to `max_share` of the shorter side.

    As `random_crop_arr` of guided-diffusion: the shorter side is scaled to a random length of
    which `size` is such a share, and the window is placed uniformly. With both shares 1 only
    the position along the longer side is random.
    """
    shortest, longest = math.ceil(size / max_share), math.ceil(size / min_share)
    scaled = _scale_short_side(image, int(rng.integers(shortest, longest + 1)))
    top = int(rng.integers(scaled.shape[0] - size + 1))
    left = int(rng.integers(scaled.shape[1] - size + 1))
    return _window(scaled, top, left, size)


def random_resized_crop(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "s s 3"]:
    """Resample a window of random area and proportions to a square (Szegedy et al. 2015).

    Args:
        image: The picture.
        size: Side of the result, in pixels.
        rng: Source of randomness.
        scale: Range of the window's share of the area, drawn uniformly.
        ratio: Range of the window's width / height, drawn uniformly in its logarithm.

    Returns:
        The window at size x size; as in torchvision, when no drawn window fits, the largest
        middle window with proportions in the range.
    """
    top, left, height, width = _random_window(image.shape[0], image.shape[1], rng, scale, ratio)
    return resize(image[top : top + height, left : left + width], size, size)


def flip_horizontal(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Mirror left and right."""
    return np.ascontiguousarray(image[:, ::-1])


def ten_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "10 s s 3"]:
    """Cut the four corners and the centre, then the same from the mirrored picture.

    The order is torchvision's: top left, top right, bottom left, bottom right, centre.

    Raises:
        ValueError: The picture is smaller than `size`.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"ten_crop: expected a picture of at least {size} x {size}, got {width} x {height}"
        )
    bottom, right = height - size, width - size
    middle = (round(bottom / 2), round(right / 2))
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), middle)
    return np.stack(
        [
            _window(view, top, left, size)
            for view in (image, image[:, ::-1])
            for top, left in corners
        ]
    )


def _scale_short_side(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Scale so that the shorter side is `size`: box halvings, then one bicubic step.

    Raises:
        BrokenImageError: The picture is so narrow that the scaled one would fill the memory.
    """
    picture = Image.fromarray(image)
    if size * size * max(picture.size) > MAX_PIXELS * min(picture.size):
        raise BrokenImageError(
            f"{picture.width} x {picture.height} pixels are too narrow to scale to {size}"
        )
    while min(picture.size) >= 2 * size:
        half = (picture.width // 2, picture.height // 2)
        picture = picture.resize(half, Image.Resampling.BOX)
    scale = size / min(picture.size)
    target = (round(picture.width * scale), round(picture.height * scale))
    return np.array(picture.resize(target, Image.Resampling.BICUBIC))


def _window(
    image: UInt8[np.ndarray, "h w 3"], top: int, left: int, size: int
) -> UInt8[np.ndarray, "s s 3"]:
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _random_window(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) as torchvision's `RandomResizedCrop.get_params` does."""
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width = min(width, max(1, round(height * aspect)))
    crop_height = min(height, max(1, round(width / aspect)))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return top, left, crop_height, crop_width

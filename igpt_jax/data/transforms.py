"""From a picture of any size to the square that the model sees.

`transform` chains the pure functions of `geometry`, `denoise` and `color` as a
`TransformConfig` says. Randomness comes from the generator that it is given and nowhere else,
so a pipeline that seeds the generator by position repeats every picture exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from igpt_jax.data.color import (
    adjust_brightness,
    adjust_color_balance,
    adjust_contrast,
    adjust_saturation,
    grey_world_gains,
)
from igpt_jax.data.denoise import denoise_bilateral, denoise_median
from igpt_jax.data.geometry import (
    center_crop,
    flip_horizontal,
    random_crop,
    random_resized_crop,
    resize,
    ten_crop,
)
from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8

__all__ = [
    "TransformConfig",
    "adjust_brightness",
    "adjust_color_balance",
    "adjust_contrast",
    "adjust_saturation",
    "center_crop",
    "denoise_bilateral",
    "denoise_median",
    "deterministic",
    "flip_horizontal",
    "grey_world_gains",
    "random_crop",
    "random_resized_crop",
    "resize",
    "ten_crop",
    "transform",
]

Crop: TypeAlias = Literal["center", "random", "random_resized", "resize"]
Denoise: TypeAlias = Literal["none", "median", "bilateral"]


@dataclass(frozen=True)
class TransformConfig:
    """What happens to a picture between the file and the model.

    Attributes:
        image_size: Side of the square result, in pixels.
        crop: `center` (ADM), `random` (ADM), `random_resized` (Inception) or `resize`, which
            squeezes the whole picture into the square.
        crop_min_share: For `random`: the window covers at least this share of the shorter side.
        crop_scale: For `random_resized`: range of the window's share of the area.
        crop_ratio: For `random_resized`: range of the window's width / height.
        flip: Mirror half of the pictures.
        denoise: Filter the crop, before any change of colour.
        white_balance: Scale the channels to a grey mean (grey world).
        brightness: Factors are drawn from [1 - strength, 1 + strength]; 0 is off.
        contrast: As `brightness`.
        saturation: As `brightness`.
        color_balance: As `brightness`, with one factor for each channel.
    """

    image_size: int = 256
    crop: Crop = "center"
    crop_min_share: float = 0.8
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    denoise: Denoise = "none"
    white_balance: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    color_balance: float = 0.0

    def __post_init__(self) -> None:
        _require(self.image_size >= 1, "image_size", "at least 1", self.image_size)
        crops, filters = get_args(Crop), get_args(Denoise)
        _require(self.crop in crops, "crop", f"one of {', '.join(crops)}", self.crop)
        _require(self.denoise in filters, "denoise", f"one of {', '.join(filters)}", self.denoise)
        share_ok = 0 < self.crop_min_share <= 1
        _require(share_ok, "crop_min_share", "in (0, 1]", self.crop_min_share)
        low, high = self.crop_scale
        _require(0 < low <= high <= 1, "crop_scale", "0 < low <= high <= 1", self.crop_scale)
        low, high = self.crop_ratio
        ratio_ok = 0 < low <= high < math.inf
        _require(ratio_ok, "crop_ratio", "0 < low <= high", self.crop_ratio)
        for name in ("brightness", "contrast", "saturation", "color_balance"):
            strength = getattr(self, name)
            _require(0 <= strength <= 1, name, "in [0, 1]", strength)


def deterministic(config: TransformConfig) -> TransformConfig:
    """The validation version: centre crop (or `resize`, if chosen), no flip, no jitter.

    Denoising and white balance stay, because they set what the model's pictures look like.
    """
    crop = "resize" if config.crop == "resize" else "center"
    return TransformConfig(
        image_size=config.image_size,
        crop=crop,
        denoise=config.denoise,
        white_balance=config.white_balance,
    )


def transform(
    config: TransformConfig, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Crop, mirror, denoise, balance and jitter one picture, in this order."""
    image = _crop(config, image, rng)
    if config.flip and rng.random() < 0.5:
        image = flip_horizontal(image)
    if config.denoise == "median":
        image = denoise_median(image)
    elif config.denoise == "bilateral":
        image = denoise_bilateral(image)
    if config.white_balance:
        image = adjust_color_balance(image, grey_world_gains(image))
    return _jitter(config, image, rng)


def _crop(
    config: TransformConfig, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    size = config.image_size
    match config.crop:
        case "center":
            return center_crop(image, size)
        case "random":
            return random_crop(image, size, rng, min_share=config.crop_min_share)
        case "random_resized":
            scale, ratio = config.crop_scale, config.crop_ratio
            return random_resized_crop(image, size, rng, scale=scale, ratio=ratio)
        case "resize":
            return resize(image, size, size)


def _jitter(
    config: TransformConfig, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Change colours by random factors, each drawn only when its strength is above 0."""
    steps: tuple[tuple[float, Callable[..., UInt8[np.ndarray, "h w 3"]]], ...] = (
        (config.brightness, adjust_brightness),
        (config.contrast, adjust_contrast),
        (config.saturation, adjust_saturation),
    )
    for strength, adjust in steps:
        if strength > 0:
            image = adjust(image, rng.uniform(1 - strength, 1 + strength))
    if config.color_balance > 0:
        gains = rng.uniform(1 - config.color_balance, 1 + config.color_balance, size=3)
        image = adjust_color_balance(image, gains)
    return image


def _require(valid: bool, name: str, expected: str, got: object) -> None:
    if not valid:
        raise UserError(f"TransformConfig.{name}: expected {expected}, got {got!r}; change it")

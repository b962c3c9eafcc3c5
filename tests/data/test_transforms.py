import numpy as np
import pytest
from pictures import noise

from igpt_jax.data.transforms import (
    TransformConfig,
    adjust_brightness,
    adjust_color_balance,
    center_crop,
    denoise_bilateral,
    denoise_median,
    deterministic,
    flip_horizontal,
    grey_world_gains,
    random_crop,
    random_resized_crop,
    resize,
    transform,
)
from igpt_jax.errors import UserError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("crop", ["center", "random", "random_resized", "resize"])
@pytest.mark.parametrize("denoise", ["none", "median", "bilateral"])
def test_every_combination_gives_the_size_and_repeats(crop, denoise):
    config = TransformConfig(
        image_size=12,
        crop=crop,
        flip=True,
        denoise=denoise,
        white_balance=True,
        brightness=0.2,
        contrast=0.2,
        saturation=1.0,
        color_balance=0.1,
    )
    image = noise(30, 20)
    before = image.copy()
    first = transform(config, image, rng(3))
    assert first.shape == (12, 12, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, transform(config, image, rng(3)))
    assert (first != transform(config, image, rng(4))).any()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda image: center_crop(image, 12)),
        ({"crop": "resize"}, lambda image: resize(image, 12, 12)),
        ({"crop": "random", "crop_min_share": 0.6},
         lambda image: random_crop(image, 12, rng(), min_share=0.6)),
        ({"crop": "random_resized", "crop_scale": (0.3, 0.4), "crop_ratio": (1.0, 1.0)},
         lambda image: random_resized_crop(image, 12, rng(), scale=(0.3, 0.4), ratio=(1.0, 1.0))),
        ({"denoise": "median"}, lambda image: denoise_median(center_crop(image, 12))),
        ({"denoise": "bilateral"}, lambda image: denoise_bilateral(center_crop(image, 12))),
    ],
)  # fmt: skip
def test_transform_applies_what_the_configuration_says(options, expected):
    image = noise(40, 50)
    got = transform(TransformConfig(image_size=12, **options), image, rng())
    np.testing.assert_array_equal(got, expected(image))


def test_white_balance_and_jitter():
    image = center_crop(noise(12, 12) // 2, 12)
    balanced = transform(TransformConfig(image_size=12, white_balance=True), image, rng())
    np.testing.assert_array_equal(balanced, adjust_color_balance(image, grey_world_gains(image)))
    bright = transform(TransformConfig(image_size=12, brightness=0.5), image, rng(5))
    np.testing.assert_array_equal(bright, adjust_brightness(image, rng(5).uniform(0.5, 1.5)))


def test_half_of_the_pictures_are_mirrored():
    config = TransformConfig(image_size=8, flip=True)
    image = noise(8, 8)
    generator = rng()
    views = [transform(config, image, generator) for _ in range(400)]
    flipped = [np.array_equal(view, flip_horizontal(image)) for view in views]
    kept = [np.array_equal(view, image) for view in views]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_the_deterministic_version_ignores_the_generator():
    config = TransformConfig(16, "random_resized", flip=True, brightness=0.5, denoise="median")
    fixed = deterministic(config)
    assert (fixed.image_size, fixed.crop, fixed.denoise) == (16, "center", "median")
    image = noise(40, 30)
    np.testing.assert_array_equal(transform(fixed, image, rng(0)), transform(fixed, image, rng(1)))
    assert deterministic(fixed) == fixed
    assert deterministic(TransformConfig(16, "resize")).crop == "resize"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size: expected at least 1, got 0"),
        ({"crop_min_share": 0.0}, "crop_min_share"),
        ({"crop_min_share": 1.1}, "crop_min_share"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"crop_scale": (0.5, 1.2)}, "crop_scale"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio"),
        ({"brightness": -0.1}, "brightness"),
        ({"color_balance": 1.5}, "color_balance"),
        ({"contrast": float("nan")}, "contrast"),
    ],
)
def test_wrong_configurations_are_refused(options, message):
    with pytest.raises(UserError, match=message) as raised:
        TransformConfig(**options)
    assert "\n" not in str(raised.value)

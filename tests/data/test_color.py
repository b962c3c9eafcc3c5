import numpy as np
import pytest
from pictures import noise
from PIL import Image, ImageEnhance

from igpt_jax.data.color import (
    adjust_brightness,
    adjust_color_balance,
    adjust_contrast,
    adjust_saturation,
    grey_world_gains,
)

ENHANCERS = {
    adjust_brightness: ImageEnhance.Brightness,
    adjust_contrast: ImageEnhance.Contrast,
    adjust_saturation: ImageEnhance.Color,
}


@pytest.mark.parametrize("adjust", ENHANCERS)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_adjustments_agree_with_pillow(adjust, factor):
    image = noise(20, 20)
    expected = np.array(ENHANCERS[adjust](Image.fromarray(image)).enhance(factor)).astype(int)
    got = adjust(image, factor)
    assert got.dtype == np.uint8
    # Pillow rounds the grey picture down and cuts fractions off.
    assert np.abs(got.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("adjust", ENHANCERS)
def test_factor_one_changes_nothing(adjust):
    image = noise()
    np.testing.assert_array_equal(adjust(image, 1.0), image)
    np.testing.assert_array_equal(adjust_color_balance(image, (1.0, 1.0, 1.0)), image)


def test_color_balance_multiplies_each_channel():
    image = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(
        adjust_color_balance(image, (0.5, 1.0, 3.0))[0, 0], [50, 100, 255]
    )


def test_grey_world_makes_the_channel_means_equal():
    tint = np.array([0.9, 0.6, 0.3], np.float32)
    image = (noise(32, 32) * tint * 0.8).astype(np.uint8)
    balanced = adjust_color_balance(image, grey_world_gains(image))
    means = balanced.mean(axis=(0, 1))
    np.testing.assert_allclose(means, means.mean(), rtol=0.03)


def test_grey_world_leaves_black_channels():
    image = np.zeros((3, 3, 3), np.uint8)
    image[..., 0] = 30
    gains = grey_world_gains(image)
    assert np.isfinite(gains).all()
    np.testing.assert_array_equal(gains[1:], [1.0, 1.0])
    np.testing.assert_array_equal(grey_world_gains(np.zeros((3, 3, 3), np.uint8)), [1.0] * 3)

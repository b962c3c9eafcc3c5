import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import noise
from PIL import Image

from igpt_jax.data.geometry import (
    center_crop,
    flip_horizontal,
    random_crop,
    random_resized_crop,
    resize,
    ten_crop,
)
from igpt_jax.data.images import BrokenImageError


def adm_center_crop(picture: Image.Image, image_size: int) -> np.ndarray:
    """`center_crop_arr` of openai/guided-diffusion, `guided_diffusion/image_datasets.py`."""
    while min(*picture.size) >= 2 * image_size:
        picture = picture.resize(tuple(x // 2 for x in picture.size), resample=Image.BOX)
    scale = image_size / min(*picture.size)
    picture = picture.resize(tuple(round(x * scale) for x in picture.size), resample=Image.BICUBIC)
    arr = np.array(picture)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 40))
def test_center_crop_is_that_of_adm(height, width, size):
    image = noise(height, width)
    expected = adm_center_crop(Image.fromarray(image), size)
    np.testing.assert_array_equal(center_crop(image, size), expected)


def test_center_crop_of_the_right_size_changes_nothing():
    image = noise(32, 32)
    np.testing.assert_array_equal(center_crop(image, 32), image)
    np.testing.assert_array_equal(center_crop(noise(32, 40), 32), noise(32, 40)[:, 4:36])


def test_pictures_too_narrow_to_scale_are_broken():
    with pytest.raises(BrokenImageError, match="too narrow"):
        center_crop(noise(1, 20_000), 256)


def test_resize_is_bicubic_and_keeps_constant_pictures():
    image = noise(20, 30)
    expected = np.array(Image.fromarray(image).resize((7, 11), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(image, 11, 7), expected)
    assert (resize(np.full((9, 5, 3), 77, np.uint8), 16, 16) == 77).all()


def test_flip_is_its_own_inverse():
    image = noise()
    np.testing.assert_array_equal(flip_horizontal(image)[:, 0], image[:, -1])
    np.testing.assert_array_equal(flip_horizontal(flip_horizontal(image)), image)


def test_random_crop_with_full_share_places_the_window_anywhere_along_the_longer_side():
    column = np.arange(20, dtype=np.uint8)
    image = np.broadcast_to(column[None, :, None], (8, 20, 3)).copy()
    lefts = set()
    for seed in range(300):
        window = random_crop(image, 8, np.random.default_rng(seed), min_share=1.0)
        left = int(window[0, 0, 0])
        np.testing.assert_array_equal(window, image[:, left : left + 8])
        lefts.add(left)
    assert lefts == set(range(13))


def test_random_crop_covers_the_promised_share():
    """On a horizontal ramp the range of values in the window tells how much it covers."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy()
    spans = []
    for seed in range(200):
        window = random_crop(ramp, 50, np.random.default_rng(seed), min_share=0.5)
        spans.append((int(window[0, -1, 0]) - int(window[0, 0, 0])) / 200)
    assert min(spans) == pytest.approx(0.5, abs=0.04)
    assert max(spans) == pytest.approx(1.0, abs=0.04)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_random_crops_have_their_size_and_repeat_with_the_seed(height, width, size, seed):
    image = noise(height, width)
    for crop in (random_crop, random_resized_crop):
        first = crop(image, size, np.random.default_rng(seed))
        assert first.shape == (size, size, 3)
        np.testing.assert_array_equal(first, crop(image, size, np.random.default_rng(seed)))


def test_random_resized_crop_of_everything_is_a_resize():
    image = noise(24, 24)
    whole = random_resized_crop(
        image, 10, np.random.default_rng(0), scale=(1.0, 1.0), ratio=(1.0, 1.0)
    )
    np.testing.assert_array_equal(whole, resize(image, 10, 10))


def test_random_resized_crop_draws_area_uniformly_and_proportions_log_uniformly():
    """Two ramps, in red and green, show width and height of the window."""
    side = 250
    steps = np.arange(side, dtype=np.uint8)
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0] = steps[None, :]
    image[..., 1] = steps[:, None]
    areas, ratios = [], []
    for seed in range(400):
        window = random_resized_crop(
            image, 64, np.random.default_rng(seed), scale=(0.1, 0.4), ratio=(0.5, 2.0)
        ).astype(float)
        width = (window[0, -1, 0] - window[0, 0, 0]) * 64 / 63
        height = (window[-1, 0, 1] - window[0, 0, 1]) * 64 / 63
        areas.append(width * height / side**2)
        ratios.append(math.log(width / height))
    assert min(areas) == pytest.approx(0.1, abs=0.02)
    assert max(areas) == pytest.approx(0.4, abs=0.02)
    assert np.mean(areas) == pytest.approx(0.25, abs=0.02)
    assert np.mean(ratios) == pytest.approx(0.0, abs=0.08)
    assert np.std(ratios) == pytest.approx(math.log(4) / math.sqrt(12), rel=0.1)


def test_random_resized_crop_falls_back_to_the_largest_middle_window():
    image = noise(10, 100)
    got = random_resized_crop(
        image, 8, np.random.default_rng(0), scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3)
    )
    expected = Image.fromarray(image[:, 43:56]).resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, np.array(expected))


def test_ten_crop():
    image = noise(9, 12)
    crops = ten_crop(image, 5)
    assert crops.shape == (10, 5, 5, 3)
    np.testing.assert_array_equal(crops[0], image[:5, :5])
    np.testing.assert_array_equal(crops[1], image[:5, -5:])
    np.testing.assert_array_equal(crops[2], image[-5:, :5])
    np.testing.assert_array_equal(crops[3], image[-5:, -5:])
    np.testing.assert_array_equal(crops[4], image[2:7, 4:9])
    np.testing.assert_array_equal(crops[5:], ten_crop(flip_horizontal(image), 5)[:5])
    with pytest.raises(ValueError, match="at least 10 x 10, got 12 x 9"):
        ten_crop(image, 10)

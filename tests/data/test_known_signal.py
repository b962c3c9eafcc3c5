import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from igpt_jax.data.condition_images import (
    EdgesConfig,
    GreyConfig,
    SmallConfig,
    block_means,
    luma,
    make_condition_image,
)
from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.known_signal import keep_known_signal, known_signal_psnr
from igpt_jax.errors import UserError

CONFIGS = [GreyConfig(), SmallConfig(), SmallConfig(4), EdgesConfig()]
WEIGHTS = np.array([0.299, 0.587, 0.114])
CAP = 100.0  # dB; equal pictures have 106


def some_pictures(count: int, size: int) -> st.SearchStrategy[np.ndarray]:
    """Random bytes, and pictures that are mostly black, white, and pure colours."""
    shape = (count, size, size, 3)
    return st.one_of(
        arrays(np.uint8, shape), arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 254, 255]))
    )


def noise_batch(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def conditions(config, images: np.ndarray) -> np.ndarray:
    return np.stack([make_condition_image(config, image, images.shape[1]) for image in images])


@pytest.mark.parametrize("config", CONFIGS[:3])
@settings(deadline=None, max_examples=40)
@given(images=some_pictures(2, 8), others=some_pictures(2, 8))
def test_what_is_known_is_kept_exactly_for_any_pictures(config, images, others):
    cond_images = conditions(config, others)
    result = keep_known_signal(config, images, cond_images)
    np.testing.assert_array_equal(conditions(config, result), cond_images)
    assert (known_signal_psnr(config, result, cond_images) > CAP).all()
    np.testing.assert_array_equal(keep_known_signal(config, result, cond_images), result)
    np.testing.assert_array_equal(keep_known_signal(config, others, cond_images), others)


@pytest.mark.parametrize("config", CONFIGS[:3])
def test_each_picture_of_a_batch_is_treated_alone(config):
    images, cond_images = noise_batch(3, 8), conditions(config, noise_batch(3, 8, seed=1))
    together = keep_known_signal(config, images, cond_images)
    for i in range(3):
        alone = keep_known_signal(config, images[i : i + 1], cond_images[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])


def best_colour(image: np.ndarray, target: int) -> np.ndarray:
    """The colour of luma `target` with as much of the chroma as fits, searched in floats."""
    chroma = image - image @ WEIGHTS
    shares = np.linspace(0, 1, 2001)
    colours = target + shares[:, None] * chroma
    fits = ((colours >= -1e-9) & (colours <= 255 + 1e-9)).all(axis=1)
    return colours[fits][-1]


def test_as_much_of_the_chroma_is_kept_as_fits():
    rng = np.random.default_rng(0)
    images = np.concatenate(
        [rng.integers(0, 256, (200, 3)), rng.choice([0, 255], (50, 3))]
    ).reshape(1, 25, 10, 3)
    targets = rng.integers(0, 256, (1, 25, 10, 1)).repeat(3, -1)
    result = keep_known_signal(GreyConfig(), images.astype(np.uint8), targets.astype(np.uint8))
    moved = 0
    for image, target, got in zip(
        images.reshape(-1, 3), targets.reshape(-1, 3)[:, 0], result.reshape(-1, 3), strict=True
    ):
        if np.floor(image @ WEIGHTS + 0.5) != target:
            # Half a level of rounding, and the step of the search.
            assert np.abs(best_colour(image, target) - got).max() <= 0.5 + 0.15
            moved += 1
    assert moved > 200


@settings(deadline=None, max_examples=60)
@given(images=some_pictures(1, 6), greys=arrays(np.uint8, (1, 6, 6, 1)))
def test_the_hue_stays(images, greys):
    """The chroma is the old one times a number in [0, 1], to rounding."""
    result = keep_known_signal(GreyConfig(), images, greys.repeat(3, -1)).astype(float)
    old = images - (images @ WEIGHTS)[..., None]
    new = result - (result @ WEIGHTS)[..., None]
    share = (old * new).sum(-1) / np.maximum((old**2).sum(-1), 1e-9)
    away = np.linalg.norm(new - np.clip(share, 0, 1)[..., None] * old, axis=-1)
    # Each channel is rounded by at most a half, and their luma with them.
    assert away.max() <= 1


def test_chroma_that_fits_is_what_jpeg_would_keep():
    """The Y of one picture with the Cb and Cr of the other, by the formulas of JFIF 1.02."""
    rng = np.random.default_rng(3)
    images = rng.integers(100, 156, (1, 16, 16, 3)).astype(np.uint8)
    greys = rng.integers(90, 166, (1, 16, 16, 1)).astype(np.uint8).repeat(3, -1)
    blue = images @ np.array([-0.1687, -0.3313, 0.5])
    red = images @ np.array([0.5, -0.4187, -0.0813])
    offsets = np.stack([1.402 * red, -0.34414 * blue - 0.71414 * red, 1.772 * blue], axis=-1)
    result = keep_known_signal(GreyConfig(), images, greys).astype(int)
    moved = luma(images) != greys[..., 0]
    assert moved.mean() > 0.9
    assert np.abs(result - (greys + offsets))[moved].max() <= 0.5 + 0.05


def test_grey_pictures_become_the_condition():
    cond_images = conditions(GreyConfig(), noise_batch(2, 8))
    grey = np.full((2, 8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(keep_known_signal(GreyConfig(), grey, cond_images), cond_images)


def test_black_and_white_have_no_colour():
    cond_images = np.zeros((1, 4, 4, 3), np.uint8)
    cond_images[:, 2:] = 255
    result = keep_known_signal(GreyConfig(), noise_batch(1, 4), cond_images)
    np.testing.assert_array_equal(result, cond_images)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_changed_brightness_is_undone_by_small_conditions(factor):
    rng = np.random.default_rng(1)
    truth = rng.integers(40, 200, (2, 8, 8, 3)).astype(np.uint8)
    cond_images = conditions(SmallConfig(factor), truth)
    result = keep_known_signal(SmallConfig(factor), truth + np.uint8(30), cond_images)
    assert np.abs(result.astype(int) - truth).max() <= 1


def test_small_conditions_bring_noisy_pictures_nearer_to_the_truth():
    """The truth is in the set that is projected on, so no projection leads away from it."""
    rng = np.random.default_rng(2)
    truth = noise_batch(4, 16)
    noisy = np.clip(truth + rng.normal(0, 40, truth.shape), 0, 255).astype(np.uint8)
    for factor in (2, 4):
        config = SmallConfig(factor)
        result = keep_known_signal(config, noisy, conditions(config, truth))
        before, after = (((x.astype(float) - truth) ** 2).sum() for x in (noisy, result))
        assert after < before * (1 - 0.5 / factor**2)


def test_edges_tell_nothing_exactly():
    images = noise_batch(2, 16)
    cond_images = conditions(EdgesConfig(), noise_batch(2, 16, seed=1))
    np.testing.assert_array_equal(keep_known_signal(EdgesConfig(), images, cond_images), images)


@pytest.mark.parametrize("config", CONFIGS)
def test_psnr_is_that_of_the_known_part(config):
    images, others = noise_batch(3, 16), noise_batch(3, 16, seed=1)
    cond_images = conditions(config, others)
    got = known_signal_psnr(config, images, cond_images)
    assert got.shape == (3,)
    assert got.dtype == np.float32
    if isinstance(config, SmallConfig):
        known, kept = block_means(others, config.factor), block_means(images, config.factor)
    else:
        known, kept = cond_images, conditions(config, images)
    error = ((known.astype(float) - kept) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(got, 10 * np.log10(255**2 / error), rtol=1e-5)
    assert (known_signal_psnr(config, others, cond_images) > CAP).all()


def test_chroma_does_not_count_in_the_psnr_of_grey():
    images = noise_batch(2, 8)
    assert (known_signal_psnr(GreyConfig(), images, conditions(GreyConfig(), images)) > CAP).all()
    brighter = np.clip(images.astype(int) + 10, 0, 255).astype(np.uint8)
    got = known_signal_psnr(GreyConfig(), brighter, images)
    error = ((luma(brighter).astype(float) - luma(images)) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(got, 10 * np.log10(255**2 / error), rtol=1e-5)


@pytest.mark.parametrize("function", [keep_known_signal, known_signal_psnr])
def test_a_factor_that_does_not_divide_is_refused(function):
    images = noise_batch(1, 8)
    with pytest.raises(UserError, match="got 3 for 8 x 8 pixels") as raised:
        function(SmallConfig(3), images, images)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("config", CONFIGS[:3])
def test_cifar10(config):
    name = "cifar10-train.zip"
    if not (Path(os.environ.get("IGPT_DATA", "/nowhere")) / name).exists():
        pytest.skip(f"needs {name} in the folder that IGPT_DATA names")
    source = FolderSource(FolderConfig(f"$IGPT_DATA/{name}", 500), "validation")
    images = np.stack([source[index]["image"] for index in range(0, 5000, 25)])
    cond_images = conditions(config, images)
    rng = np.random.default_rng(0)
    noisy = np.clip(images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
    assert known_signal_psnr(config, noisy, cond_images).max() < 60
    for start in (noisy, images[::-1]):
        result = keep_known_signal(config, start, cond_images)
        assert known_signal_psnr(config, result, cond_images).min() > CAP
    result = keep_known_signal(config, noisy, cond_images)
    errors = [((x.astype(float) - images) ** 2).mean() for x in (noisy, result)]
    assert errors[1] < errors[0]

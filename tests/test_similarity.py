"""PSNR and SSIM against scikit-image's numbers (see tests/golden/README.md) and by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.similarity import psnr, ssim

psnr, ssim = jax.jit(psnr), jax.jit(ssim)

GOLDEN = Path(__file__).parent / "golden" / "ssim.npz"


def ruled_pair(index):
    """Two uint8 pictures; the rule of tests/golden/README.md."""
    random = np.random.default_rng(index)
    height, width = ((16, 40), (33, 24))[index // 2 % 2]
    rows, columns = np.mgrid[:height, :width]
    frequency, phase = random.uniform(0.05, 0.8, (2, 3)), random.uniform(0, 6, 3)
    waves = np.sin(rows[..., None] * frequency[0] + columns[..., None] * frequency[1] + phase)
    first = 128 + (120 * waves if index % 2 else 127 * np.sign(waves))
    noise = random.standard_normal(first.shape) * (0, 2, 8, 25, 60)[index // 2]
    second = (first + noise) * (1 - 0.05 * index) + 3 * index
    return tuple(np.clip(np.rint(x), 0, 255).astype(np.uint8) for x in (first, second))


def as_images(*pictures):
    return [jnp.asarray(x[None] / 127.5 - 1, jnp.float32) for x in pictures]


@pytest.mark.parametrize(("measure", "name"), [(ssim, "ssim"), (psnr, "psnr")])
def test_the_published_numbers(measure, name):
    golden = np.load(GOLDEN)[name]
    values = [measure(*as_images(*ruled_pair(index)))[0] for index in range(10)]
    assert golden[0] == (1.0 if name == "ssim" else np.inf)  # the first pair is equal
    np.testing.assert_allclose(values[0], 1.0 if name == "ssim" else 106.0206, atol=1e-4)
    np.testing.assert_allclose(values[1:], golden[1:], rtol=1e-6)


def test_each_image_has_its_own_value():
    pairs = [as_images(*ruled_pair(index)) for index in (4, 9)]
    images, reconstruction = (jnp.concatenate(x) for x in zip(*pairs, strict=True))
    for measure in (psnr, ssim):
        alone = [measure(*pair)[0] for pair in pairs]
        np.testing.assert_allclose(measure(images, reconstruction), alone, rtol=1e-6)


def test_psnr_of_a_known_error():
    images = jnp.zeros((3, 4, 4, 3))
    np.testing.assert_allclose(psnr(images, images + 0.2), [20.0] * 3, atol=1e-4)
    np.testing.assert_allclose(psnr(images + 1, images + 9), [106.0206] * 3, atol=1e-4)  # clipped


def test_ssim_of_flat_images_is_its_luminance_term():
    black, white = (jnp.full((1, 12, 15, 1), value) for value in (-1.0, 1.0))
    np.testing.assert_allclose(ssim(black, white), 1e-4 / (1 + 1e-4), rtol=1e-5)
    np.testing.assert_allclose(ssim(white, white + 1), 1.0, rtol=1e-6)  # clipped


def test_ssim_sees_small_contrast_on_a_bright_ground():
    """Steps of one part in 255 next to white, in float64 with the window written out."""
    random = np.random.default_rng(0)
    first, second = (255 - random.integers(0, 2, (11, 11)) for _ in range(2))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = first / 255, second / 255
    x_mean, y_mean = (window * x).sum(), (window * y).sum()
    x_variance, y_variance = (window * (x - x_mean) ** 2).sum(), (window * (y - y_mean) ** 2).sum()
    covariance = (window * (x - x_mean) * (y - y_mean)).sum()
    expected = (2 * x_mean * y_mean + 1e-4) / (x_mean**2 + y_mean**2 + 1e-4)
    expected *= (2 * covariance + 9e-4) / (x_variance + y_variance + 9e-4)
    value = ssim(*as_images(first[..., None], second[..., None]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 10, 64, 3), (2, 64, 10, 3)])
def test_ssim_names_the_smallest_size(shape):
    with pytest.raises(UserError, match=rf"at least 11 x 11 pixels, got {shape[1]} x {shape[2]}"):
        ssim(jnp.zeros(shape), jnp.zeros(shape))

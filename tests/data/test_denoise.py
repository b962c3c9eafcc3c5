import numpy as np
import pytest
import scipy.ndimage
from pictures import noise

from igpt_jax.data.denoise import denoise_bilateral, denoise_median


@pytest.mark.parametrize("radius", [1, 2])
def test_median_agrees_with_scipy(radius):
    image = noise(17, 13)
    side = 2 * radius + 1
    expected = scipy.ndimage.median_filter(image, size=(side, side, 1), mode="nearest")
    np.testing.assert_array_equal(denoise_median(image, radius), expected)


def test_median_removes_single_pixels():
    image = np.full((9, 9, 3), 120, np.uint8)
    image[4, 4] = 255
    assert (denoise_median(image) == 120).all()


def reference_bilateral(image, radius, sigma_space, sigma_color):
    """The definition of Tomasi & Manduchi 1998, pixel by pixel."""
    height, width, _ = image.shape
    pixels = image.astype(np.float64)
    out = np.empty_like(pixels)
    for y in range(height):
        for x in range(width):
            total, weights = np.zeros(3), 0.0
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    near = pixels[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
                    space = (dy * dy + dx * dx) / (2 * sigma_space**2)
                    color = ((near - pixels[y, x]) ** 2).sum() / (2 * sigma_color**2)
                    weight = np.exp(-space - color)
                    total += weight * near
                    weights += weight
            out[y, x] = total / weights
    return out


def test_bilateral_agrees_with_its_definition():
    image = noise(7, 6)
    got = denoise_bilateral(image, radius=2, sigma_space=1.3, sigma_color=80.0)
    np.testing.assert_allclose(got, reference_bilateral(image, 2, 1.3, 80.0), atol=0.51)


def test_bilateral_keeps_a_step_and_smooths_the_sides():
    rng = np.random.default_rng(0)
    step = np.zeros((40, 40, 3))
    step[:, :20], step[:, 20:] = 60, 200
    noisy = np.clip(step + rng.normal(0, 8, step.shape), 0, 255).astype(np.uint8)
    smooth = denoise_bilateral(noisy)
    left, right = smooth[:, 16:20].astype(float), smooth[:, 20:24].astype(float)
    assert left.mean() == pytest.approx(60, abs=2)
    assert right.mean() == pytest.approx(200, abs=2)
    assert smooth[:, :18].var() < 0.4 * noisy[:, :18].var()
    assert smooth[:, 22:].var() < 0.4 * noisy[:, 22:].var()


def test_flat_pictures_stay():
    flat = np.full((5, 6, 3), 33, np.uint8)
    np.testing.assert_array_equal(denoise_bilateral(flat), flat)
    np.testing.assert_array_equal(denoise_median(flat), flat)

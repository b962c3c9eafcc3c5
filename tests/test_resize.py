"""Resizing against PyTorch's numbers and against what must hold at every size."""

import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.resize import area, bicubic

ROWS, COLUMNS = np.indices((5, 6))
WAVES = jnp.asarray(np.sin(3 * ROWS + COLUMNS), jnp.float32)[None, :, :, None]

# torch.nn.functional.interpolate (PyTorch 2.15) of the waves and of their upper left corner.
SMALLER_BICUBIC = [
    [0.1129317, 0.2558670, -0.1044069, -0.2448787],
    [-0.0789468, 1.0078565, 0.1506425, -0.9302990],
    [-0.1501432, 0.2191856, 0.1754122, -0.1936173],
]
SMALLER_AREA = [
    [0.0564471, 0.0087604, -0.0595278, -0.0173455],
    [-0.0616690, -0.2688989, 0.0215438, 0.2521847],
    [-0.0620771, -0.0333092, 0.0614947, 0.0403684],
]
LARGER_BICUBIC = [
    [-0.1132763, 0.3758531, 1.0100390, 1.1427673, 1.1155812],
    [-0.0109769, 0.2050798, 0.4793622, 0.5156540, 0.4866685],
    [0.1575162, -0.0761938, -0.3946936, -0.5172387, -0.5491878],
    [0.2598156, -0.2469671, -0.9253704, -1.1443522, -1.1781003],
]
MIXED_AREA = [[0.4207355, 0.8753842], [0.0564471, 0.0087604], [-0.3078412, -0.8578634]]


@pytest.mark.parametrize(
    ("resize", "images", "expected"),
    [
        (bicubic, WAVES, SMALLER_BICUBIC),
        (area, WAVES, SMALLER_AREA),
        (bicubic, WAVES[:, :2, :3], LARGER_BICUBIC),
        (area, WAVES[:, :2, :3], MIXED_AREA),
    ],
    ids=["smaller bicubic", "smaller area", "larger bicubic", "mixed area"],
)
def test_pytorchs_numbers(resize, images, expected):
    resized = resize(images, np.shape(expected))
    np.testing.assert_allclose(resized[0, :, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("resize", [bicubic, area])
@pytest.mark.parametrize("size", [(1, 1), (3, 8), (16, 16), (11, 4)])
def test_a_flat_picture_stays_flat(resize, size):
    colors = jnp.asarray([-1.0, 0.25, 3.0])
    resized = resize(jnp.broadcast_to(colors, (2, 7, 9, 3)), size)
    assert resized.shape == (2, *size, 3)
    np.testing.assert_allclose(resized, np.broadcast_to(colors, resized.shape), rtol=1e-6)


@pytest.mark.parametrize("resize", [bicubic, area])
def test_the_same_size_changes_nothing(resize):
    np.testing.assert_allclose(resize(WAVES, (5, 6)), WAVES, atol=1e-7)


def test_the_area_of_a_divisor_is_the_mean_of_a_patch():
    patches = np.asarray(WAVES[0, :4, :, 0]).reshape(2, 2, 3, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(area(WAVES[:, :4], (2, 3))[0, :, :, 0], patches, atol=1e-6)


def test_bicubic_reduction_takes_four_pixels_and_no_blur():
    # 384 to 256: new pixel 0 lies at old 0.25, new pixel 1 at old 1.75.
    ramp = jnp.zeros((1, 1, 384, 1)).at[:, :, 4:].set(1.0)
    row = bicubic(ramp, (1, 256))[0, 0, :, 0]
    assert not np.any(row[:2])
    assert np.all(row[5:] == 1)
    # Old 3.25 has the last two of its four pixels beyond the step, 0.75 and 1.75 away.
    near = 1.25 * 0.75**3 - 2.25 * 0.75**2 + 1
    far = -0.75 * (1.75 - 1) * (1.75 - 2) ** 2
    np.testing.assert_allclose(row[2], near + far, atol=1e-6)

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import noise
from PIL import Image

from igpt_jax.data.condition_images import (
    ConditionImageConfig,
    EdgesConfig,
    GreyConfig,
    SmallConfig,
    block_means,
    find_edges,
    luma,
    make_condition_image,
    set_block_means,
)
from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.geometry import center_crop, resize
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict

CONFIGS = [GreyConfig(), SmallConfig(), SmallConfig(4), EdgesConfig()]

# scikit-image 0.26: feature.canny(luma(noise(24, 20)), 2.0, 8 * 3, 8 * 5, mode="nearest"), rows
# 1 to 22 and columns 1 to 18. With both thresholds at 5 it has 26 white pixels, at 3 it has 63.
EDGES = """
#####.........####
.............#...#
..................
..................
..................
..................
..................
...............#..
...........##..#..
...........#...#..
...........#...#..
...........#...#..
..........##...##.
.........##.....##
.........#.......#
........#.........
........#.........
........#.........
....#...####......
#####......#.....#
.#...........##.##
#...........##...#
""".strip().splitlines()


def small_pictures(count: int, height: int, width: int) -> st.SearchStrategy[np.ndarray]:
    """Random bytes, and pictures that are mostly black and white."""
    shape = (count, height, width, 3)
    return st.one_of(
        arrays(np.uint8, shape), arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 254, 255]))
    )


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [(16, 16), (50, 40), (9, 23), (4, 4), (3, 90)])
def test_conditions_are_pictures_of_the_asked_size(config, size):
    image = noise(*size)
    before = image.copy()
    cond_image = make_condition_image(config, image, 16)
    assert cond_image.shape == (16, 16, 3)
    assert cond_image.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(cond_image, make_condition_image(config, image, 16))


@dataclass(frozen=True)
class Holder:
    cond_image: ConditionImageConfig | None = None


@pytest.mark.parametrize("config", [None, *CONFIGS, SmallConfig(3), EdgesConfig(2.0, 3.0, 5.0)])
def test_configs_survive_json(config):
    values = json.loads(json.dumps(to_dict(Holder(config))))
    assert from_dict(Holder, values) == Holder(config)


def test_luma_is_that_of_pillow_and_of_float_arithmetic():
    image = np.stack([noise(64, 64, seed) for seed in range(4)])
    expected = np.stack([np.array(Image.fromarray(x).convert("L")) for x in image])
    # Pillow counts in 2^-16, which decides ties otherwise.
    difference = luma(image).astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.002
    exact = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma(image) - exact).max() <= 0.5 + 1e-9


def test_grey_has_three_equal_channels_and_greys_stay():
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    np.testing.assert_array_equal(make_condition_image(GreyConfig(), grey, 16), grey)
    cond_image = make_condition_image(GreyConfig(), noise(16, 16), 16)
    assert (cond_image == cond_image[..., :1]).all()
    np.testing.assert_array_equal(cond_image[..., 0], luma(noise(16, 16)))
    np.testing.assert_array_equal(make_condition_image(GreyConfig(), cond_image, 16), cond_image)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_block_means_are_rounded_halves_up(factor):
    image = noise(48, 24)
    blocks = image.reshape(48 // factor, factor, 24 // factor, factor, 3)
    expected = np.floor(blocks.mean(axis=(1, 3)) + 0.5)
    np.testing.assert_array_equal(block_means(image, factor), expected)
    if factor != 3:  # where Pillow divides by an inexact reciprocal
        pillow = np.array(Image.fromarray(image).reduce(factor))
        np.testing.assert_array_equal(block_means(image, factor), pillow)


@settings(deadline=None, max_examples=60)
@given(image=small_pictures(1, 12, 12), factor=st.sampled_from([2, 3, 4, 6, 12]))
def test_the_small_picture_is_read_back_exactly_from_its_condition(image, factor):
    cond_image = make_condition_image(SmallConfig(factor), image[0], 12)
    np.testing.assert_array_equal(block_means(cond_image, factor), block_means(image[0], factor))
    again = make_condition_image(SmallConfig(factor), cond_image, 12)
    np.testing.assert_array_equal(again, cond_image)
    small = block_means(image[0], factor)
    np.testing.assert_array_equal(make_condition_image(SmallConfig(factor), small, 12), cond_image)


def test_small_conditions_are_smooth():
    """Near to the bicubic enlargement, and of no blocks: a ramp stays a ramp."""
    ramp = np.repeat(np.arange(0, 224, 7, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, -1)
    cond_image = make_condition_image(SmallConfig(4), ramp, 32)
    inner = cond_image[:, 6:-6].astype(int)
    assert np.abs(inner - ramp[:, 6:-6]).max() <= 1
    plain = resize(block_means(noise(32, 32), 4), 32, 32).astype(int)
    assert np.abs(make_condition_image(SmallConfig(4), noise(32, 32), 32) - plain).mean() < 8


def test_pictures_of_other_sizes_are_cropped_as_for_validation():
    image = noise(60, 47)
    for config in CONFIGS:
        expected = make_condition_image(config, center_crop(image, 16), 16)
        np.testing.assert_array_equal(make_condition_image(config, image, 16), expected)
    small = center_crop(noise(10, 11), 8)
    np.testing.assert_array_equal(
        block_means(make_condition_image(SmallConfig(), noise(10, 11), 16), 2), small
    )


@settings(deadline=None, max_examples=60)
@given(
    images=small_pictures(2, 6, 6), seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([2, 3])
)
def test_the_change_of_blocks_is_the_smallest(images, seed, factor):
    """No swap of one level between two pixels makes it smaller, nor a sum nearer to the old one."""
    rng = np.random.default_rng(seed)
    kinds = [np.uint8(0), np.uint8(255), *rng.integers(0, 256, 2, dtype=np.uint8)]
    small = rng.choice(kinds, (2, 6 // factor, 6 // factor, 3)).astype(np.uint8)
    result = set_block_means(images, small)
    np.testing.assert_array_equal(block_means(result, factor), small)
    np.testing.assert_array_equal(set_block_means(result, small), result)
    for b, row, column, channel in np.ndindex(small.shape):
        place = np.s_[b, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        new = result[place][..., channel].astype(int)
        moves = new - images[place][..., channel]
        if moves.any():
            assert moves[new > 0].max(initial=-255) <= moves[new < 255].min(initial=255) + 1
            nearer = new.sum() - np.sign(moves.sum())
            assert np.floor(nearer / factor**2 + 0.5) != small[b, row, column, channel]


def test_edges_are_those_of_scikit_image():
    edges = find_edges(EdgesConfig(2.0, 3.0, 5.0), noise(24, 20))
    assert set(np.unique(edges)) == {0, 255}
    drawn = ["".join(".#"[value // 255] for value in row) for row in edges[1:-1, 1:-1]]
    assert drawn == EDGES


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("blur", [1, 3])
def test_a_step_is_one_line_one_pixel_wide(turns, blur):
    profile = np.interp(np.arange(16), [7, 7 + blur], [50, 200]).astype(np.uint8)
    step = np.repeat(np.repeat(profile[None, :, None], 16, 0), 3, -1)
    edges = find_edges(EdgesConfig(), np.ascontiguousarray(np.rot90(step, turns)))
    edges = np.rot90(edges, -turns)
    np.testing.assert_array_equal((edges == 255).sum(axis=1), np.ones(16))
    assert np.unique(np.argmax(edges, axis=1)).tolist() in ([7], [8], [9])


def test_flat_pictures_and_faint_steps_have_no_edges():
    flat = np.full((16, 16, 3), 90, np.uint8)
    assert not find_edges(EdgesConfig(), flat).any()
    faint = flat.copy()
    faint[:, 8:] += 12  # the steepest slope of a step is below 0.4 of its height here
    assert not find_edges(EdgesConfig(1.0, 4.0, 10.0), faint).any()
    assert find_edges(EdgesConfig(1.0, 2.0, 3.0), faint).any()


def test_faint_edges_are_kept_only_where_they_join_strong_ones():
    image = np.zeros((24, 24, 3), np.uint8)
    heights = np.linspace(10, 200, 24).astype(np.uint8)
    image[:, 12:] = heights[:, None, None]
    strong = find_edges(EdgesConfig(1.0, 30.0, 30.0), image).any(axis=1)
    joined = find_edges(EdgesConfig(1.0, 10.0, 30.0), image).any(axis=1)
    assert joined.sum() > strong.sum() + 3
    assert not joined[0]
    faint = image.copy()
    faint[12:] = 0
    assert find_edges(EdgesConfig(1.0, 10.0, 10.0), faint).any()
    assert not find_edges(EdgesConfig(1.0, 10.0, 60.0), faint).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmallConfig(1), "SmallConfig.factor: expected at least 2, got 1"),
        (lambda: EdgesConfig(sigma=0.0), "EdgesConfig.sigma: expected more than 0, got 0.0"),
        (lambda: EdgesConfig(low=9.0, high=8.0), "expected 0 < low <= high, got 9.0, 8.0"),
        (lambda: EdgesConfig(low=0.0), "expected 0 < low <= high, got 0.0"),
        (
            lambda: make_condition_image(SmallConfig(3), noise(16, 16), 16),
            "expected a divisor of the size of the pictures, got 3 for 16 x 16 pixels",
        ),
        (lambda: block_means(noise(16, 15), 2), "got 2 for 15 x 16 pixels"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_cifar10():
    name = "cifar10-train.zip"
    if not (Path(os.environ.get("IGPT_DATA", "/nowhere")) / name).exists():
        pytest.skip(f"needs {name} in the folder that IGPT_DATA names")
    source = FolderSource(FolderConfig(f"$IGPT_DATA/{name}", 500), "validation")
    images = np.stack([source[index]["image"] for index in range(0, 5000, 50)])
    small = np.stack([make_condition_image(SmallConfig(), image, 32) for image in images])
    np.testing.assert_array_equal(block_means(small, 2), block_means(images, 2))
    plain = np.stack([resize(image, 32, 32) for image in block_means(images, 2)])
    errors = [((x.astype(float) - images) ** 2).mean() for x in (small, plain)]
    assert errors[0] < errors[1]
    shares = [find_edges(EdgesConfig(), image).mean() / 255 for image in images]
    assert 0.1 < np.mean(shares) < 0.3
    assert min(shares) > 0.01

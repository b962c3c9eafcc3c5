import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.palette import Palette, PaletteConfig, fit_palette, load_palette

CONFIG = PaletteConfig(image_size=6, num_colors=17)
PALETTE = Palette(CONFIG)
KEY = jax.random.key(0)


def random_params(seed=0):
    colors = np.random.default_rng(seed).uniform(-1, 1, (17, 3)).astype(np.float32)
    return {"codebook": jnp.asarray(colors)}


def test_encode_is_the_brute_force_nearest_color():
    params = random_params()
    images = np.random.default_rng(1).uniform(-1, 1, (3, 6, 6, 3)).astype(np.float32)
    tokens = PALETTE.apply({"params": params}, jnp.asarray(images), method="encode")
    distance = ((images[..., None, :] - np.asarray(params["codebook"])) ** 2).sum(-1)
    np.testing.assert_array_equal(tokens, distance.argmin(-1).reshape(3, 36))


def test_decode_gives_the_published_bytes():
    params = random_params()
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, 17, (2, 36)))
    images = PALETTE.apply({"params": params}, tokens, method="decode")
    expected = np.rint(127.5 * (np.asarray(params["codebook"])[np.asarray(tokens)] + 1))
    actual = np.rint(127.5 * (np.asarray(images) + 1)).reshape(2, 36, 3)
    np.testing.assert_array_equal(actual, expected)


def test_colors_of_the_palette_survive_the_round_trip():
    params = random_params()
    tokens = jnp.asarray(np.random.default_rng(3).integers(0, 17, (2, 36)), jnp.int32)
    images = PALETTE.apply({"params": params}, tokens, method="decode")
    np.testing.assert_array_equal(
        PALETTE.apply({"params": params}, images, method="encode"), tokens
    )
    np.testing.assert_array_equal(PALETTE.apply({"params": params}, images), images)


def test_parameters_and_sizes():
    params = PALETTE.init(KEY, jnp.zeros((1, 6, 6, 3)))
    assert jax.tree.map(jnp.shape, params) == {"params": {"codebook": (17, 3)}}
    assert (PALETTE.grid_shape, PALETTE.vocab_size, PALETTE.image_size) == ((6, 6), 17, 6)
    assert (CONFIG.grid_shape, CONFIG.vocab_size) == ((6, 6), 17)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_few_colors_are_fitted_exactly(dtype):
    colors = np.asarray([[0, 0, 0], [255, 128, 7], [40, 50, 60]], np.uint8)
    images = colors[np.random.default_rng(0).integers(0, 3, (2, 8, 8))]
    pixels = images if dtype == "uint8" else images.astype(np.float32) / 127.5 - 1
    params = fit_palette(pixels, 3, KEY)
    fitted = np.rint(127.5 * (np.asarray(params["codebook"]) + 1)).astype(int)
    assert sorted(map(tuple, fitted.tolist())) == sorted(map(tuple, colors.tolist()))


def test_fitting_draws_pixels_and_repeats():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    first = fit_palette(images, 8, KEY, max_pixels=100)["codebook"]
    again = fit_palette(images, 8, KEY, max_pixels=100)["codebook"]
    np.testing.assert_array_equal(first, again)
    assert first.shape == (8, 3)


def test_load_reads_floats_and_bytes(tmp_path):
    floats = np.random.default_rng(0).uniform(-1, 1, (512, 3)).astype(np.float32)
    np.save(tmp_path / "kmeans_centers.npy", floats)
    loaded = load_palette(tmp_path / "kmeans_centers.npy")["codebook"]
    np.testing.assert_array_equal(loaded, floats)
    np.save(tmp_path / "bytes.npy", np.asarray([[0, 255, 51]], np.uint8))
    loaded = load_palette(str(tmp_path / "bytes.npy"))["codebook"]
    np.testing.assert_allclose(loaded, [[-1, 1, -0.6]], atol=1e-6)


@pytest.mark.parametrize(
    ("colors", "told"),
    [
        (np.zeros((4, 4), np.float32), r"\[v, 3\]"),
        (np.zeros((0, 3), np.float32), r"\[v, 3\]"),
        (np.zeros((4, 3), np.int32), "int32"),
        (np.full((4, 3), 255.0, np.float32), "-1, 1"),
        (np.full((4, 3), np.nan, np.float32), "-1, 1"),
    ],
)
def test_load_refuses_other_arrays(tmp_path, colors, told):
    np.save(tmp_path / "palette.npy", colors)
    with pytest.raises(UserError, match=told) as caught:
        load_palette(tmp_path / "palette.npy")
    assert "\n" not in str(caught.value)


def test_load_refuses_other_files(tmp_path):
    (tmp_path / "text.npy").write_text("colours")
    np.savez(tmp_path / "many.npz", np.zeros((4, 3)))
    for name in ("text.npy", "many.npz", "missing.npy"):
        with pytest.raises(UserError, match=name):
            load_palette(tmp_path / name)


def test_config_refuses_nothing_to_do():
    with pytest.raises(UserError, match="num_colors"):
        PaletteConfig(num_colors=0)

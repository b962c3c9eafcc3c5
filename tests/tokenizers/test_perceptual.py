import dataclasses
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.ndimage import correlate1d

from igpt_jax.cli import main
from igpt_jax.errors import UserError
from igpt_jax.run import run
from igpt_jax.testing import tiny_config
from igpt_jax.tokenizers.losses import AutoencoderLossConfig
from igpt_jax.tokenizers.perceptual import (
    LPIPS,
    default_num_levels,
    laplacian_pyramid_loss,
    load_lpips,
    unit_normalize,
)
from igpt_jax.tokenizers.vgg import vgg16_params
from igpt_jax.training.metrics import read_metrics

GOLDEN = Path(__file__).parent.parent / "golden" / "lpips_vgg16.npz"
CONVS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256),
         14: (256, 256), 17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512),
         26: (512, 512), 28: (512, 512)}  # fmt: skip
distance_of = jax.jit(LPIPS().apply)
pyramid_of = jax.jit(laplacian_pyramid_loss, static_argnames="num_levels")


def ruled(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    return draw * np.float32(np.sqrt(2 / np.prod(shape[1:]))) if len(shape) == 4 else 0.1 * draw


def vgg_weights():
    shapes = {}
    for index, (channels, inputs) in CONVS.items():
        shapes[f"features.{index}.weight"] = (channels, inputs, 3, 3)
        shapes[f"features.{index}.bias"] = (channels,)
    return {name: ruled(name, shape).astype(np.float32) for name, shape in shapes.items()}


def picture(seed, height, width):
    generator = np.random.default_rng(seed)
    coarse = generator.standard_normal((6, 6, 3))
    rows, columns = (
        np.maximum(0, 1 - np.abs(np.linspace(0, 5, size)[:, None] - np.arange(6)))
        for size in (height, width)
    )
    smooth = np.einsum("hi,wj,ijc->hwc", rows, columns, coarse)
    noise = 0.1 * generator.standard_normal((height, width, 3))
    return np.tanh(smooth + noise).astype(np.float32)


def pair(index):
    height, width = (32, 32) if index < 10 else (64, 48)
    x, other = (picture(seed, height, width) for seed in (2 * index, 2 * index + 1))
    if index in (0, 10):
        return x, x
    if index == 1:
        return x, x + np.float32(0.01) * other
    if index == 2:
        return np.full_like(x, -1), np.full_like(x, 1)
    mix = np.float32((index % 10) / 10)
    return x, (1 - mix) * x + mix * other


def lpips_name(name):
    _, index, kind = name.split(".")
    block = sum(int(index) >= start for start in (0, 4, 9, 16, 23))
    return f"net.slice{block}.{index}.{kind}"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def linear(golden):
    return {name: array for name, array in golden.items() if name.startswith("lin")}


@pytest.fixture(scope="module")
def files(tmp_path_factory, linear):
    """VGG16 alone in torchvision's names, the linear layers alone, both in the names of LPIPS."""
    folder = tmp_path_factory.mktemp("lpips")
    weights = vgg_weights()
    save_file(weights, folder / "vgg16.safetensors")
    np.savez(folder / "linear.npz", **linear)
    renamed = {lpips_name(name): array for name, array in weights.items()}
    np.savez(folder / "lpips.npz", **renamed, **linear)
    return folder / "vgg16.safetensors", folder / "linear.npz", folder / "lpips.npz"


@pytest.fixture(scope="module")
def params(files):
    return load_lpips(files[0], files[1])


def test_the_published_distances(golden, params):
    distances = []
    for indices in (range(10), range(10, 20)):
        x, y = map(jnp.stack, zip(*map(pair, indices), strict=True))
        distances.append(distance_of({"params": params}, x, y))
    distances = np.concatenate(distances)
    assert np.ptp(distances) > 0.1
    assert "lpips 0.1.4" in json.loads(str(golden["meta"]))["package"]
    np.testing.assert_allclose(distances, golden["distances"], rtol=1e-4, atol=1e-6)
    assert distances[0] == distances[10] == 0


def test_the_names_of_lpips_give_the_same_parameters(files, params):
    jax.tree.map(np.testing.assert_array_equal, load_lpips(files[2]), params)


def test_loaded_parameters_are_those_that_init_makes(params):
    image = jnp.zeros((1, 16, 16, 3))
    expected = jax.eval_shape(LPIPS().init, jax.random.key(0), image, image)["params"]
    loaded = jax.eval_shape(lambda: params)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    assert jax.tree.leaves(loaded) == jax.tree.leaves(expected)


def test_the_gradient_is_finite_and_leads_downhill(params):
    x, y = (jnp.asarray(picture(seed, 16, 16))[None] for seed in (0, 1))
    gradient_of = jax.jit(
        jax.value_and_grad(lambda y, params: LPIPS().apply({"params": params}, x, y)[0])
    )
    distance, gradient = gradient_of(y, params)
    step = 0.01 * gradient / jnp.linalg.norm(gradient)
    moved, _ = gradient_of(y - step, params)
    slope = jnp.vdot(gradient, step)
    assert slope > 1e-4
    np.testing.assert_allclose(distance - moved, slope, rtol=0.05)

    _, at_equal = gradient_of(x, params)
    np.testing.assert_allclose(at_equal, 0, atol=1e-6)

    last = params["vgg"]["conv5_3"]
    silent = {**params["vgg"], "conv5_3": {**last, "bias": jnp.full_like(last["bias"], -1e6)}}
    distance, gradient = gradient_of(y, {**params, "vgg": silent})
    assert distance > 0
    assert np.all(np.isfinite(gradient))


def test_unit_norm():
    features = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    features[0, 0, 0] = 0

    @jax.jit
    def unit_and_gradient(features):
        unit, pull_back = jax.vjp(unit_normalize, features)
        return unit, *pull_back(3 * unit**2)

    unit, gradient = unit_and_gradient(features)
    np.testing.assert_array_equal(unit[0, 0, 0], 0)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1).ravel()[1:], 1, rtol=1e-5)
    assert np.all(np.isfinite(gradient))


def test_bfloat16_changes_the_distance_little(golden, params):
    x, y = map(jnp.stack, zip(pair(5), pair(8), strict=True))
    distances = jax.jit(LPIPS(jnp.bfloat16).apply)({"params": params}, x, y)
    assert distances.dtype == jnp.float32
    np.testing.assert_allclose(distances, golden["distances"][[5, 8]], rtol=0.05)


def test_images_too_small_for_lpips(params):
    image = jnp.zeros((1, 15, 16, 3))
    with pytest.raises(UserError, match=r"16 or more pixels a side, got 15x16"):
        LPIPS().apply({"params": params}, image, image)


def test_missing_linear_layers(files):
    with pytest.raises(UserError, match=r"linear layers lin0.*vgg16.safetensors, got none; give"):
        load_lpips(files[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array[:, :1], r"lin3.model.1.weight of shape \[1, 512, 1, 1\], got \[1, 1"),
        (lambda array: -array, r"lin3.model.1.weight to be 0 or more, got -"),
        (lambda array: array * np.nan, r"lin3.model.1.weight to be 0 or more, got nan"),
    ],
)
def test_wrong_linear_layers(files, linear, tmp_path, change, message):
    name = "lin3.model.1.weight"
    np.savez(tmp_path / "linear.npz", **(linear | {name: change(linear[name])}))
    with pytest.raises(UserError, match=message):
        load_lpips(files[0], tmp_path / "linear.npz")


@pytest.mark.parametrize("rename", [str, lpips_name])
def test_wrong_vgg_weights_are_named(rename):
    weights = {rename(name): array for name, array in vgg_weights().items()}
    kernel, bias = rename("features.28.weight"), rename("features.12.bias")
    without = {name: array for name, array in weights.items() if name != bias}
    with pytest.raises(UserError, match=f"expected an entry {bias}, got 25 entries"):
        vgg16_params(without)
    with pytest.raises(UserError, match=rf"{kernel} of shape \[512, 512, 3, 3\], got \[512, 1, 3"):
        vgg16_params(weights | {kernel: weights[kernel][:, :1]})
    with pytest.raises(UserError, match=r"expected an entry features.0.weight, got 0 entries"):
        vgg16_params({})


def blurred(image):
    binomial = np.array([1, 4, 6, 4, 1]) / 16
    return correlate1d(correlate1d(image, binomial, 0, mode="mirror"), binomial, 1, mode="mirror")


def reference_pyramid(image, num_levels):
    levels = []
    for _ in range(num_levels - 1):
        smaller = blurred(image)[::2, ::2]
        spread = np.zeros_like(image)
        spread[::2, ::2] = smaller
        levels.append(image - 4 * blurred(spread))
        image = smaller
    return [*levels, image]


@pytest.mark.parametrize(
    ("height", "width", "num_levels"), [(32, 32, None), (21, 13, None), (12, 16, 1), (4, 9, None)]
)
def test_pyramids_like_those_of_numpy(height, width, num_levels):
    x, y = (np.stack([picture(seed + i, height, width) for i in (0, 1)]) for seed in (0, 2))
    loss = pyramid_of(jnp.asarray(x), jnp.asarray(y), num_levels=num_levels)
    levels = num_levels or default_num_levels((height, width))
    expected = []
    for images in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        of_x, of_y = (reference_pyramid(image, levels) for image in images)
        terms = [np.abs(a - b).mean() for a, b in zip(of_x, of_y, strict=True)]
        expected.append(sum(terms))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "num_levels"),
    [((32, 32), 4), ((256, 300), 7), ((21, 13), 3), ((7, 64), 2), ((6, 6), 1), ((1, 9), 1)],
)
def test_the_default_number_of_levels(sizes, num_levels):
    assert default_num_levels(sizes) == num_levels


def test_a_constant_shift_is_in_the_coarsest_level_only():
    x = jnp.asarray(picture(0, 8, 11))[None]
    shift = jnp.array([0.1, -0.2, 0.3])
    for num_levels in (1, 2):
        loss = pyramid_of(x, x + shift, num_levels=num_levels)
        np.testing.assert_allclose(loss, 0.2, rtol=1e-4)


def test_the_gradient_of_pyramids_is_finite_where_images_agree():
    x = jnp.asarray(picture(0, 8, 9))[None]
    gradient_of = jax.jit(jax.grad(lambda y: laplacian_pyramid_loss(x, y)[0]))
    np.testing.assert_array_equal(gradient_of(x), 0)
    gradient = gradient_of(x + 0.1)
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0)


@pytest.mark.parametrize("num_levels", [0, 5])
def test_wrong_number_of_levels(num_levels):
    image = jnp.zeros((1, 32, 40, 3))
    with pytest.raises(UserError, match=rf"1 to 4 for images of 32x40, got {num_levels}"):
        laplacian_pyramid_loss(image, image, num_levels=num_levels)


@pytest.mark.slow
def test_a_run_learns_by_lpips_and_is_measured_by_it(files, tmp_path, capsys):
    """The pretrained network is loaded, never trained and never saved."""
    loss = AutoencoderLossConfig(
        perceptual_weight=0.5, lpips_path=str(files[0]), lpips_linear_path=str(files[1])
    )
    training = dataclasses.replace(tiny_config().tokenizer_training, num_steps=2)
    run(
        tiny_config(tokenizer_loss=loss, tokenizer_training=training, last_stage="tokenizer"),
        tmp_path / "run",
    )
    rows = read_metrics(tmp_path / "run/tokenizer", "train")
    for row in rows:
        expected = row["l2_loss"] + 0.5 * row["perceptual_loss"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
        assert row["perceptual_loss"] > 0.01
    saved = sum(p.stat().st_size for p in (tmp_path / "run/tokenizer").rglob("*") if p.is_file())
    assert saved < files[0].stat().st_size / 20
    weights = ["--lpips", str(files[0]), "--lpips-linear", str(files[1])]
    assert main(["evaluate", str(tmp_path / "run"), *weights, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["lpips"] == pytest.approx(rows[-1]["perceptual_loss"], rel=0.3)

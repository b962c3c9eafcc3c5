"""The discriminators, against the published networks, NumPy and their own promises.

In golden/patch_discriminator.npz are the outputs, in float64, of pix2pix's network in PyTorch for
weights made by the rule of golden/README.md and images drawn uniformly from [-1, 1] by the same.
"""

import json
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.discriminators import (
    PatchDiscriminatorConfig,
    StyleDiscriminatorConfig,
    append_minibatch_stddev,
    binomial_blur,
    build_discriminator,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "patch_discriminator.npz"
KEY = jax.random.key(0)
PATCH = PatchDiscriminatorConfig(base_channels=4, num_layers=1)
STYLE = StyleDiscriminatorConfig(base_channels=1, max_channels=8)
SMALL = {
    "group": PATCH,
    "batch": PatchDiscriminatorConfig(4, 1, "batch"),
    "none": PatchDiscriminatorConfig(4, 1, "none"),
    "style": STYLE,
    "style_plain": StyleDiscriminatorConfig(1, 8, blur=False, stddev_group_size=None),
}


def draw_images(b, h, w, seed=0):
    images = np.random.default_rng(seed).uniform(-1, 1, (b, h, w, 3))
    return jnp.asarray(images, jnp.float32)


def abstract_params(model, h, w):
    images = jax.ShapeDtypeStruct((2, h, w, 3), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, images)
    assert set(variables) == {"params"}
    return variables["params"]


def random_params(model, h, w, seed=1):
    """Draws with NumPy, biases and scales too, of a size that keeps the logits' size near 1."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        values = generator.standard_normal(leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
        if leaf.ndim == 1:
            values = 0.1 * values + (path[-1].key == "scale")
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(model, h, w))


def num_params(model, size):
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model, size, size)))


def ruled_weight(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = draw.astype(np.float32)
    if len(shape) >= 2:
        return draw / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw


def published_position(layer, norm):
    """The place of a layer in the published sequence: convolution, norm if any, leaky ReLU."""
    kind, index = layer.split("_")
    index = int(index)
    first = 0 if index == 0 else 2 + (index - 1) * (2 if norm == "none" else 3)
    return first + (kind == "norm")


@pytest.mark.parametrize(
    ("norm", "published_count"), [("batch", 2_765_633), ("group", 2_765_633), ("none", 2_764_737)]
)
def test_the_published_patch_discriminator(norm, published_count):
    model = build_discriminator(PatchDiscriminatorConfig(norm=norm))
    golden = np.load(GOLDEN)
    unused = json.loads(str(golden["meta"]))["param_shapes"][norm]
    assert num_params(model, 64) == published_count

    def fill(path, leaf):
        layer, kind = (entry.key for entry in path)
        published_kind = "bias" if kind == "bias" else "weight"
        name = f"main.{published_position(layer, norm)}.{published_kind}"
        values = ruled_weight(name, unused.pop(name)).astype(np.float32)
        values = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
        assert values.shape == leaf.shape, name
        return jnp.asarray(values)

    params = jax.tree_util.tree_map_with_path(fill, abstract_params(model, 64, 48))
    assert not unused
    images = np.random.default_rng(zlib.crc32(b"images")).uniform(-1, 1, (3, 64, 48, 3))
    logits = jax.jit(model.apply)({"params": params}, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(logits, golden[norm], atol=1e-4)


def test_stylegan2_has_the_published_number_of_parameters():
    # Configuration F at 1024 pixels, as the authors' code prints it.
    model = build_discriminator(StyleDiscriminatorConfig(base_channels=128))
    assert num_params(model, 1024) == 29_012_513


@pytest.mark.parametrize(
    ("base_channels", "expected"),
    [
        (64, {4: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32}),  # LlamaGen, MaskGIT
        (128, {64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}),  # StyleGAN2, configuration F
        (1, {4: 64, 512: 1}),
    ],
)
def test_channels_by_resolution(base_channels, expected):
    config = StyleDiscriminatorConfig(base_channels)
    assert {size: config.channels_at(size) for size in expected} == expected


@pytest.mark.parametrize(
    ("num_layers", "image_shape", "grid_shape"),
    [
        (3, (256, 256), (30, 30)),  # pix2pix, VQGAN
        (3, (64, 96), (6, 10)),
        (3, (24, 24), (1, 1)),
        (2, (32, 32), (6, 6)),
        (2, (13, 12), (1, 1)),
        (1, (6, 8), (1, 2)),
        (5, (128, 128), (2, 2)),
    ],
)
def test_the_grid_of_a_patch_discriminator(num_layers, image_shape, grid_shape):
    config = PatchDiscriminatorConfig(4, num_layers)
    images = jnp.zeros((2, *image_shape, 3))
    logits, _ = jax.eval_shape(build_discriminator(config).init_with_output, KEY, images)
    assert (logits.shape, logits.dtype) == ((2, *grid_shape), jnp.float32)


@pytest.mark.parametrize(
    ("image_shape", "num_blocks", "final_shape"),
    [
        ((8, 8), 1, (4, 4)),
        ((16, 16), 2, (4, 4)),
        ((24, 24), 2, (6, 6)),
        ((56, 56), 3, (7, 7)),
        ((32, 64), 3, (4, 8)),
        ((256, 256), 6, (4, 4)),
        ((384, 384), 6, (6, 6)),
        ((512, 512), 7, (4, 4)),
    ],
)
def test_sizes_of_a_style_discriminator(image_shape, num_blocks, final_shape):
    model = build_discriminator(StyleDiscriminatorConfig(1, 8))
    images = jnp.zeros((3, *image_shape, 3))
    logits, variables = jax.eval_shape(model.init_with_output, KEY, images)
    assert (logits.shape, logits.dtype) == ((3, 1, 1), jnp.float32)
    params = variables["params"]
    assert sum(name.startswith("block") for name in params) == num_blocks
    assert params["dense_0"]["kernel"].shape == (math.prod(final_shape) * 8, 8)


def test_odd_sizes_below_a_style_discriminator():
    # 72, 36, 18, 9 and then 4 rows with blur, 5 without: both branches must agree.
    for blur in (True, False):
        model = build_discriminator(StyleDiscriminatorConfig(1, 4, blur))
        params = abstract_params(model, 72, 72)
        assert params["dense_0"]["kernel"].shape == ((16 if blur else 25) * 4, 4)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_gradients_reach_every_pixel_and_parameter(config):
    model = build_discriminator(config)
    images = draw_images(3, 12, 14)

    @jax.jit
    def gradients(params, images):
        return jax.grad(
            lambda params, images: jnp.sum(model.apply({"params": params}, images) ** 2), (0, 1)
        )(params, images)

    by_params, by_images = gradients(random_params(model, 12, 14), images)
    assert np.all(np.isfinite(by_images))
    assert np.all(np.any(by_images != 0, axis=-1))
    for path, gradient in jax.tree_util.tree_leaves_with_path(by_params):
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient != 0), path


@pytest.mark.parametrize("config", [PATCH, STYLE], ids=["patch", "style"])
def test_bfloat16_computes_in_bfloat16_and_returns_float32(config):
    model = build_discriminator(config, dtype=jnp.bfloat16)
    params = random_params(model, 14, 14)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    images = draw_images(4, 14, 14)
    rough = jax.jit(model.apply)({"params": params}, images)
    exact = jax.jit(build_discriminator(config).apply)({"params": params}, images)
    assert rough.dtype == exact.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.1)
    assert np.all(rough == rough.astype(jnp.bfloat16))
    assert not np.all(exact == exact.astype(jnp.bfloat16))


def test_the_dtype_of_the_parameters():
    model = build_discriminator(STYLE, param_dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(abstract_params(model, 16, 16))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}


def test_a_patch_is_70_pixels_a_side():
    model = build_discriminator(PatchDiscriminatorConfig(2, 3, "none"))
    params = random_params(model, 128, 128)
    images = draw_images(1, 128, 128)
    apply = jax.jit(model.apply)
    logit_of = jax.jit(jax.grad(lambda images: model.apply({"params": params}, images)[0, 6, 7]))
    rows, columns = np.nonzero(np.any(logit_of(images)[0] != 0, axis=-1))
    # By hand: logit i sees pixels 8 i - 23 to 8 i + 46.
    assert (rows.min(), rows.max()) == (25, 94)
    assert (columns.min(), columns.max()) == (33, 102)
    before = apply({"params": params}, images)[0, 6, 7]
    assert before == apply({"params": params}, images.at[0, 95, 60].add(1.0))[0, 6, 7]
    assert before != apply({"params": params}, images.at[0, 60, 60].add(1.0))[0, 6, 7]


@pytest.mark.parametrize(("norm", "is_tied"), [("group", False), ("batch", True), ("none", False)])
def test_batch_norm_alone_ties_images_together(norm, is_tied):
    model = build_discriminator(SMALL[norm])
    params = random_params(model, 16, 16)
    first, second, third = (draw_images(1, 16, 16, seed) for seed in range(3))
    apply = jax.jit(model.apply)
    logits = apply({"params": params}, jnp.concatenate([first, second]))[0]
    others = apply({"params": params}, jnp.concatenate([first, third]))[0]
    assert np.allclose(logits, others, atol=1e-6) != is_tied


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 9, 12])
def test_minibatch_stddev_against_numpy(batch_size):
    features = np.random.default_rng(batch_size).standard_normal((batch_size, 2, 3, 5))
    features *= 1 + np.arange(batch_size).reshape(-1, 1, 1, 1)
    num_groups = max(1, batch_size // 4)
    expected = np.zeros(batch_size)
    for group in range(num_groups):
        stddev = np.sqrt(features[group::num_groups].var(axis=0) + 1e-8)
        expected[group::num_groups] = stddev.mean()
    append = jax.jit(append_minibatch_stddev, static_argnums=1)
    result = append(jnp.asarray(features, jnp.float32), 4)
    np.testing.assert_array_equal(result[..., :-1], features.astype(np.float32))
    channel = np.broadcast_to(expected.reshape(-1, 1, 1), (batch_size, 2, 3))
    np.testing.assert_allclose(result[..., -1], channel, rtol=1e-5)


def test_a_collapsed_batch_is_seen_by_minibatch_stddev_only():
    varied = draw_images(5, 16, 16)
    collapsed = jnp.broadcast_to(varied[:1], varied.shape)
    differences = []
    for config in (STYLE, SMALL["style_plain"]):
        model = build_discriminator(config)
        params = random_params(model, 16, 16)
        logits, other = (
            jax.jit(model.apply)({"params": params}, images)[0, 0, 0]
            for images in (varied, collapsed)
        )
        differences.append(abs(float(logits - other)))
    assert differences[0] > 1e-3
    assert differences[1] < 1e-6


@pytest.mark.parametrize(("padding", "stride"), [(2, 1), (1, 2)])
def test_binomial_blur_against_numpy(padding, stride):
    features = np.random.default_rng(0).standard_normal((2, 6, 9, 3))
    expected = numpy_blur(features, padding)[:, ::stride, ::stride]
    result = binomial_blur(jnp.asarray(features, jnp.float32), padding=padding, stride=stride)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def numpy_windows(features, size, padding):
    padded = np.pad(features, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    return sliding_window_view(padded, (size, size), axis=(1, 2))


def numpy_blur(features, padding):
    row = np.array([1, 3, 3, 1]) / 8
    return np.einsum("bhwcij,i,j->bhwc", numpy_windows(features, 4, padding), row, row)


def numpy_conv(features, weights, stride=1, padding=0):
    windows = numpy_windows(features, weights["kernel"].shape[0], padding)[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcd->bhwd", windows, weights["kernel"]) + weights.get("bias", 0)


def leaky(values):
    return np.where(values > 0, values, 0.2 * values)


@pytest.mark.parametrize("blur", [True, False])
def test_the_style_discriminator_against_numpy(blur):
    model = build_discriminator(StyleDiscriminatorConfig(1, 8, blur))
    params = random_params(model, 16, 24)
    images = draw_images(7, 16, 24)
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    features = leaky(numpy_conv(np.asarray(images, np.float64), weights["from_rgb"]))
    for block in (weights["block_0"], weights["block_1"]):
        hidden = leaky(numpy_conv(features, block["conv_0"], padding=1))
        if blur:
            hidden = numpy_conv(numpy_blur(hidden, 2), block["conv_1"], stride=2)
            shortcut = numpy_conv(numpy_blur(features, 1), block["shortcut"], stride=2)
        else:
            hidden = numpy_conv(hidden, block["conv_1"], stride=2, padding=1)
            shortcut = numpy_conv(features, block["shortcut"], stride=2)
        features = (leaky(hidden) + shortcut) / np.sqrt(2)
    stddev = np.sqrt(features.var(axis=0) + 1e-8).mean()
    features = np.concatenate([features, np.full((7, 4, 6, 1), stddev)], axis=-1)
    features = leaky(numpy_conv(features, weights["conv_out"], padding=1)).reshape(7, -1)
    features = leaky(features @ weights["dense_0"]["kernel"] + weights["dense_0"]["bias"])
    logits = features @ weights["dense_1"]["kernel"] + weights["dense_1"]["bias"]
    result = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(result[:, 0], logits, atol=1e-5)


@pytest.mark.slow
def test_published_initial_weights_of_patches():
    model = build_discriminator(PatchDiscriminatorConfig(32, 1))
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 6, 6, 3)))["params"]
    assert np.std(params["conv_1"]["kernel"]) == pytest.approx(0.02, rel=0.02)
    scale = np.asarray(params["norm_1"]["scale"])
    assert scale.mean() == pytest.approx(1.0, abs=0.01)
    assert scale.std() == pytest.approx(0.02, rel=0.3)
    assert not np.any(params["norm_1"]["bias"])
    assert ["bias" in params[f"conv_{index}"] for index in range(3)] == [True, False, True]


@pytest.mark.slow
def test_initial_weights_of_style_keep_the_size_of_features():
    model = build_discriminator(StyleDiscriminatorConfig(8, 64))
    images = draw_images(8, 32, 32)
    logits, variables = jax.jit(model.init_with_output)(KEY, images)
    kernel = np.asarray(variables["params"]["conv_out"]["kernel"])
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 65)), rel=0.02)
    assert 0.01 < np.abs(logits).mean() < 10


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (PatchDiscriminatorConfig, {"base_channels": 0}, "got 0 and 3; try 64 and 3"),
        (PatchDiscriminatorConfig, {"num_layers": 0}, "got 64 and 0; try 64 and 3"),
        (StyleDiscriminatorConfig, {"base_channels": 0}, "got 0 and 512; try 64 and 512"),
        (StyleDiscriminatorConfig, {"max_channels": -1}, "got 64 and -1; try 64 and 512"),
        (StyleDiscriminatorConfig, {"stddev_group_size": 1}, "None for off, got 1; try 4"),
    ],
)
def test_wrong_configs(kind, arguments, words):
    with pytest.raises(UserError, match=words):
        kind(**arguments)


def test_an_unknown_norm():
    config = PatchDiscriminatorConfig()
    # Set behind its back, since the type checker of the tests would speak first.
    object.__setattr__(config, "norm", "spectral")
    with pytest.raises(UserError, match="one of group, batch, none, got spectral; try group"):
        config.__post_init__()


@pytest.mark.parametrize(
    ("config", "image_shape", "words"),
    [
        (PatchDiscriminatorConfig(4), (64, 23), "at least 24 pixels.*got 64x23.*num_layers"),
        (STYLE, (7, 8), "at least 8 pixels.*got 7x8; use larger images"),
    ],
)
def test_images_too_small(config, image_shape, words):
    with pytest.raises(UserError, match=words):
        jax.eval_shape(build_discriminator(config).init, KEY, jnp.zeros((1, *image_shape, 3)))

"""The network of FID against pytorch-fid's, for weights made by a rule (tests/golden/README.md)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_weights import abstract_params, published_shapes, ruled_weight
from scipy.ndimage import map_coordinates

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import InceptionExtractor
from igpt_jax.evaluation.inception import (
    FEATURE_DIM,
    SPATIAL_DIM,
    Inception,
    class_logits,
    inception_activations,
    inception_classifier,
    inception_params,
    preprocess,
    read_inception,
)
from igpt_jax.evaluation.inception_blocks import BlockE, average_pool
from igpt_jax.evaluation.normed_conv import NormedConv

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def abstract():
    return abstract_params()


@pytest.fixture(scope="module")
def shapes():
    return published_shapes()


def ruled_pictures(height, width, count):
    random = np.random.default_rng(height)
    coarse = random.uniform(0, 255, (count, 4, 5, 3))
    smooth = coarse.repeat(height // 4, axis=1).repeat(width // 4, axis=2)[:, :height, :width]
    noise = random.normal(0, 30, (count, height, width, 3))
    return np.clip(np.rint(smooth + noise), 0, 255).astype(np.uint8)


@pytest.fixture
def weights(shapes):
    """Zeros of the right shapes that take no memory, beside what the file has and no one reads."""
    unused = {"fc.weight": (1008, 2048), "AuxLogits.conv0.conv.weight": (128, 768, 1, 1)}
    unused["Mixed_5b.branch1x1.bn.num_batches_tracked"] = ()
    return {n: np.broadcast_to(np.float32(0), s) for n, s in (shapes | unused).items()}


@pytest.mark.slow
def test_the_published_features(shapes, tmp_path):
    file = tmp_path / "inception.npz"
    np.savez(file, **{name: ruled_weight(name, shape) for name, shape in shapes.items()})
    params = read_inception(file).params
    file.unlink()
    pictures = [ruled_pictures(32, 32, 4), ruled_pictures(100, 80, 2)]
    prepared = jnp.concatenate([preprocess(jnp.asarray(x)) for x in pictures])
    features = jax.jit(Inception().apply)({"params": params}, prepared)
    # Pictures differ by 0.013 (one standard deviation); float32 alone errs by 2e-6 in PyTorch.
    expected = np.load(GOLDEN / "inception_fid.npz")["features"]
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.slow
def test_the_published_features_places_and_logits(shapes, tmp_path):
    """As the TensorFlow graph takes pictures; they differ by 0.04 in places, by 0.09 in logits."""
    file = tmp_path / "inception.npz"
    whole = shapes | {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    np.savez(file, **{name: ruled_weight(name, shape) for name, shape in whole.items()})
    extractor = InceptionExtractor(read_inception(file), "tensorflow", batch_size=4)
    file.unlink()
    found = [extractor(ruled_pictures(32, 32, 4)), extractor(ruled_pictures(100, 80, 2))]
    expected = np.load(GOLDEN / "inception_scores.npz")
    for name in ("features", "spatial", "logits"):
        ours = np.concatenate([getattr(f, name.replace("features", "pooled")) for f in found])
        np.testing.assert_allclose(ours, expected[name], atol=1e-4, err_msg=name)
    by_pytorch = np.load(GOLDEN / "inception_fid.npz")["features"]
    assert np.abs(expected["features"] - by_pytorch).max() > 0.01


def test_the_classifier_is_one_matrix_without_bias(weights):
    random = np.random.default_rng(0)
    matrix = random.standard_normal((1008, 2048)).astype(np.float32)
    classifier = inception_classifier(weights | {"fc.weight": matrix})
    pooled = random.standard_normal((3, 2048)).astype(np.float32)
    expected = pooled.astype(np.float64) @ matrix.T
    np.testing.assert_allclose(class_logits(classifier, jnp.asarray(pooled)), expected, atol=1e-3)
    del weights["fc.weight"]
    assert inception_classifier(weights) is None
    with pytest.raises(UserError, match=r"fc\.weight of shape \[1008, 2048\], got \[1000, 2048\]"):
        inception_classifier({"fc.weight": np.zeros((1000, 2048), np.float32)})


def test_one_pass_gives_features_and_places(abstract):
    images = jax.ShapeDtypeStruct((2, 40, 32, 3), jnp.uint8)
    pooled, spatial = jax.eval_shape(inception_activations, abstract, images)
    assert (pooled.shape, spatial.shape) == ((2, FEATURE_DIM), (2, SPATIAL_DIM))
    assert SPATIAL_DIM == 2023


def test_parameters_are_as_many_as_published(abstract):
    """Keras counts beta, mean and variance, torchvision scale and bias; both a 1000-class head."""
    keras, torchvision, head = 23_851_784, 23_834_568, 2048 * 1000 + 1000
    norm_channels = keras - torchvision
    expected = torchvision - head + 2 * norm_channels
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == expected == 21_820_000
    assert sum(x.size for x in jax.tree.leaves(abstract["Mixed_7c"])) == 6_083_328


def test_features_of_any_size_of_picture(abstract):
    for shape, dtype in (((2, 32, 48, 3), jnp.uint8), ((1, 400, 300, 3), jnp.float32)):
        images = jax.ShapeDtypeStruct(shape, dtype)
        features = jax.eval_shape(inception_activations, abstract, images).pooled
        assert features.shape == (shape[0], FEATURE_DIM)
        assert features.dtype == jnp.float32


def test_params_take_every_entry_as_it_is(weights, abstract):
    random = np.random.default_rng(0)
    kernel = random.standard_normal((192, 128, 7, 1)).astype(np.float32)
    variance = random.uniform(0.5, 2, 192).astype(np.float16)
    weights["Mixed_6b.branch7x7_3.conv.weight"] = kernel
    weights["Mixed_6b.branch7x7_3.bn.running_var"] = variance
    params = inception_params(weights)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract
    )
    layer = params["Mixed_6b"]["branch7x7_3"]
    np.testing.assert_array_equal(layer["kernel"][:, 0], kernel[..., 0].transpose(2, 1, 0))
    np.testing.assert_array_equal(layer["variance"], variance)
    assert not np.any(layer["mean"])


def test_a_missing_entry_is_named(weights):
    del weights["Mixed_5c.branch_pool.bn.running_mean"]
    with pytest.raises(
        UserError, match=r"expected an entry Mixed_5c\.branch_pool\.bn\.running_mean"
    ):
        inception_params(weights)


def test_a_misshapen_entry_is_named(weights):
    weights["Mixed_7a.branch3x3_2.conv.weight"] = np.zeros((320, 192, 1, 1), np.float32)
    message = r"Mixed_7a\.branch3x3_2\.conv\.weight of shape \[320, 192, 3, 3\]"
    with pytest.raises(UserError, match=message):
        inception_params(weights)


def test_an_unknown_entry_is_named(weights):
    weights["Mixed_7d.branch1x1.conv.weight"] = np.zeros(1, np.float32)
    with pytest.raises(UserError, match=r"expected no entry Mixed_7d\.branch1x1\.conv\.weight"):
        inception_params(weights)


def test_a_file_of_another_network_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", **{"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 5, 5))})
    with pytest.raises(UserError, match="FID's Inception"):
        read_inception(tmp_path / "other.npz")


def test_average_pool_leaves_the_padding_out():
    features = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    expected = np.zeros(features.shape)
    for row in range(4):
        for column in range(5):
            window = features[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            expected[:, row, column] = window.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(average_pool(jnp.asarray(features)), expected, atol=1e-6)


def test_the_last_block_pools_by_the_maximum():
    """Only the pooling branch passes, and one pixel is lit."""
    features = jnp.zeros((1, 6, 6, 1)).at[0, 2, 3, 0].set(1.0)
    for max_pooled, lit in ((True, 1.0), (False, 1 / 9)):
        block = BlockE(max_pooled=max_pooled)
        shapes = jax.eval_shape(block.init, jax.random.key(0), features)["params"]
        params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
        pool = params["branch_pool"]
        pool |= {"kernel": jnp.ones_like(pool["kernel"]), "scale": jnp.ones(192)}
        pool |= {"variance": jnp.full(192, 1 - 1e-3)}
        out = jax.jit(block.apply)({"params": params}, features)
        expected = np.zeros((6, 6))
        expected[1:4, 2:5] = lit
        np.testing.assert_allclose(out[0, :, :, -1], expected, atol=1e-6)
        assert not np.any(out[..., :-192])


def test_a_convolution_is_normed_and_rectified():
    random = np.random.default_rng(0)
    layer = NormedConv(4, (1, 3), stride=2, padding=(0, 1))
    features = random.standard_normal((2, 5, 7, 3)).astype(np.float32)
    params = jax.tree.map(
        lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32),
        layer.init(jax.random.key(0), jnp.asarray(features))["params"],
    )
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (0, 0))).astype(np.float64)
    windows = np.stack([padded[:, ::2, i : i + 7 : 2] for i in range(3)], axis=3)
    hidden = np.einsum("bhwkc,kcd->bhwd", windows, params["kernel"][0])
    normed = (hidden - params["mean"]) / np.sqrt(params["variance"] + 1e-3)
    expected = np.maximum(normed * params["scale"] + params["bias"], 0)
    assert 0 < np.mean(expected == 0) < 1
    out = layer.apply({"params": params}, jnp.asarray(features))
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 20), (299, 299), (64, 500)])
def test_pictures_are_resized_from_their_corner_as_by_tensorflow(height, width):
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    corners = [np.arange(299) * size / 299 for size in (height, width)]
    places = np.meshgrid(*corners, [0, 1, 2], indexing="ij")
    expected = map_coordinates(picture[0] / 128 - 1, places, order=1, mode="nearest")
    prepared = preprocess(jnp.asarray(picture), "tensorflow")
    np.testing.assert_allclose(prepared[0], expected, atol=2e-4)  # places round in float32


@pytest.mark.parametrize(("height", "width"), [(32, 20), (299, 299), (64, 500)])
def test_pictures_are_resized_between_pixel_centres(height, width):
    picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    centres = [(np.arange(299) + 0.5) * size / 299 - 0.5 for size in (height, width)]
    places = np.meshgrid(*centres, [0, 1, 2], indexing="ij")
    expected = map_coordinates(picture[0] / 127.5 - 1, places, order=1, mode="nearest")
    prepared = preprocess(jnp.asarray(picture))
    np.testing.assert_allclose(prepared[0], expected, atol=1e-6)
    floats = jnp.asarray(picture, jnp.float32)
    np.testing.assert_array_equal(preprocess(floats), prepared)

"""The network of FVD against pytorch-i3d's, for weights made by a rule (tests/golden/README.md)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_weights import ruled_weight
from scipy.linalg import sqrtm
from scipy.ndimage import map_coordinates, maximum_filter

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import I3DExtractor
from igpt_jax.evaluation.generation import FeatureSet, compare
from igpt_jax.evaluation.i3d import (
    I3D,
    InceptionBlock,
    i3d_features,
    i3d_params,
    max_pool,
    preprocess,
    read_i3d,
)
from igpt_jax.evaluation.normed_conv import NormedConv

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "i3d.npz")
SHAPES = {n: tuple(s) for n, s in json.loads(str(GOLDEN["meta"]))["shapes"].items()}


def ruled_videos(frames, height, width, count, noise, seed):
    """Coarse patterns that turn to others, with noise."""
    random = np.random.default_rng(seed)
    first, last = random.uniform(0, 255, (2, count, 1, 4, 5, 3))
    share = np.linspace(0, 1, frames).reshape(1, frames, 1, 1, 1)
    coarse = first * (1 - share) + last * share
    smooth = coarse.repeat(height // 4, axis=2).repeat(width // 5, axis=3)
    drawn = smooth + random.normal(0, noise, smooth.shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def abstract():
    videos = jax.ShapeDtypeStruct((1, 9, 224, 224, 3), jnp.float32)
    return jax.eval_shape(I3D().init, jax.random.key(0), videos)["params"]


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    """Parameters that a file gave."""
    file = tmp_path_factory.mktemp("i3d") / "i3d.npz"
    np.savez(file, **{name: ruled_weight(name, shape) for name, shape in SHAPES.items()})
    params = read_i3d(file)
    file.unlink()
    return params


@pytest.fixture
def weights():
    """Zeros of the right shapes that take no memory, beside counts that no one reads."""
    unused = {"Mixed_3b.b0.bn.num_batches_tracked": ()}
    return {n: np.broadcast_to(np.float32(0), s) for n, s in (SHAPES | unused).items()}


@pytest.fixture(scope="module")
def sides(ruled):
    """Features of both sides of `fvd`, of the fewest frames there can be, which are odd."""
    extractor = I3DExtractor(ruled, 9, batch_size=6)
    made = []
    for name, noise, seed in (("real", 10, 0), ("fake", 60, 1)):
        made.append(FeatureSet(name, extractor))
        made[-1].add(ruled_videos(9, 32, 40, 6, noise, seed))
    return made


@pytest.mark.slow
def test_the_published_features(sides, ruled):
    """Videos differ by 0.035 (one standard deviation)."""
    for side in sides:
        np.testing.assert_allclose(side.kept, GOLDEN[side.name], atol=1e-4, err_msg=side.name)
    long = I3DExtractor(ruled, 16, "pytorch", batch_size=2)
    found = long(ruled_videos(16, 48, 30, 2, 10, 2))
    np.testing.assert_allclose(found.pooled, GOLDEN["long"], atol=1e-4)
    assert found.logits is None  # or else there would be an Inception Score of I3D's


@pytest.mark.slow
def test_fvd_is_that_of_the_published_features(sides):
    real, fake = (GOLDEN[name].astype(np.float64) for name in ("real", "fake"))
    covariances = [np.cov(each, rowvar=False) for each in (real, fake)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    expected += np.trace(covariances[0] + covariances[1] - 2 * root)
    scores = compare(sides[1], sides[0])
    assert scores["fvd"].value == pytest.approx(expected, rel=1e-3)
    assert "no more pictures than features (400)" in scores["fvd"].note
    name = "FVD's I3D, 9 frames, resized as by TensorFlow"
    assert {each for each in scores if not each.endswith(f"[{name}]")} == {"fvd"}
    assert compare(sides[0], sides[0])["fvd"].value == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_fvd_rises_with_noise_and_with_disorder(sides, ruled):
    """The further frames are from their order, the further their videos are from real ones."""
    real, random = sides[0], np.random.default_rng(0)
    videos = ruled_videos(9, 32, 40, 6, 10, 0)
    noise = random.standard_normal(videos.shape)
    noisy = [np.clip(videos + level * noise, 0, 255).astype(np.uint8) for level in (20, 60)]
    swapped, shuffled = videos[:, [1, 0, 2, 3, 4, 5, 6, 8, 7]], videos[:, random.permutation(9)]
    for little, much in (noisy, (swapped, shuffled)):
        found = []
        for each in (little, much):
            side = FeatureSet("drawn", real.extractor)
            side.add(each)
            found.append(compare(side, real)["fvd"].value)
        assert 1e-3 < found[0] < found[1], found


def test_names_and_shapes_are_the_published_ones(abstract, weights):
    params = i3d_params(weights)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract
    )
    # 12.7 million of the 400-class network as published, and a mean and a variance a channel
    channels = sum(s[0] for n, s in SHAPES.items() if n.endswith("running_mean"))
    assert sum(x.size for x in jax.tree.leaves(abstract)) == 12_697_264 + 2 * channels


def test_params_take_every_entry_as_it_is(weights):
    random = np.random.default_rng(0)
    kernel = random.standard_normal((128, 96, 3, 3, 3)).astype(np.float32)
    variance = random.uniform(0.5, 2, 128).astype(np.float16)
    bias = random.standard_normal(400).astype(np.float32)
    weights["Mixed_3b.b1b.conv3d.weight"] = kernel
    weights["Mixed_3b.b1b.bn.running_var"] = variance
    weights["logits.conv3d.bias"] = bias
    params = i3d_params(weights)
    layer = params["Mixed_3b"]["b1b"]
    np.testing.assert_array_equal(layer["kernel"][0, 1, 2], kernel[:, :, 0, 1, 2].T)
    np.testing.assert_array_equal(layer["variance"], variance)
    np.testing.assert_array_equal(params["logits"]["bias"], bias)
    assert not np.any(layer["mean"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Mixed_4c.b3b.bn.bias": None}, r"expected an entry Mixed_4c\.b3b\.bn\.bias"),
        (
            {"Conv3d_1a_7x7.conv3d.weight": (64, 2, 7, 7, 7)},
            r"Conv3d_1a_7x7\.conv3d\.weight of shape \[64, 3, 7, 7, 7\], got \[64, 2, 7, 7, 7\]",
        ),
        (
            {"logits.conv3d.bias": (600,), "logits.conv3d.weight": (600, 1024, 1, 1, 1)},
            r"logits\.conv3d\.bias of shape \[400\], got \[600\]",
        ),
        ({"Mixed_6a.b0.bn.bias": (8,)}, r"expected no entry Mixed_6a\.b0\.bn\.bias, got one"),
    ],
)
def test_weights_of_other_networks_are_refused_in_one_line(weights, changes, words):
    for name, shape in changes.items():
        weights.pop(name, None)
        if shape is not None:
            weights[name] = np.broadcast_to(np.float32(0), shape)
    with pytest.raises(UserError, match=words) as caught:
        i3d_params(weights)
    assert str(caught.value).startswith("weights of FVD's I3D: ")
    assert len(str(caught.value).splitlines()) == 1


def test_the_fewest_frames_are_those_that_the_network_takes(abstract):
    """Of one frame less the last pooling finds no window, and the mean is of nothing."""
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), abstract)
    none = jax.jit(i3d_features)(params, jnp.zeros((1, 8, 8, 8, 3), jnp.uint8))
    assert np.isnan(none).all()
    with pytest.raises(UserError, match=r"expected videos of 9 or more frames.*got 8; take longer"):
        I3DExtractor({}, 8)
    assert I3DExtractor({}, 9).num_frames == 9


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (1, 16, 8, 8, 3)])
def test_only_videos_of_one_length_are_taken(shape):
    with pytest.raises(UserError, match="i3d: expected videos of 9 frames, got shape"):
        I3DExtractor({}, 9)(np.zeros(shape, np.uint8))


def test_fingerprints_tell_weights_lengths_and_resizing():
    params = {"x": np.zeros(3, np.float32)}
    others = [
        I3DExtractor(params, 9),
        I3DExtractor(params, 10),
        I3DExtractor(params, 9, "pytorch"),
        I3DExtractor({"x": np.ones(3, np.float32)}, 9),
    ]
    assert len({each.fingerprint for each in others}) == 4
    assert I3DExtractor(params, 9, batch_size=3).fingerprint == others[0].fingerprint


@pytest.mark.parametrize(("kind", "offset"), [("pytorch", 0.5), ("tensorflow", 0.0)])
@pytest.mark.parametrize(("height", "width"), [(32, 20), (64, 500)])
def test_frames_are_resized_whole(kind, offset, height, width):
    video = np.random.default_rng(0).integers(0, 256, (1, 2, height, width, 3), dtype=np.uint8)
    axes = [(np.arange(224) + offset) * size / 224 - offset for size in (height, width)]
    places = np.meshgrid(*axes, [0, 1, 2], indexing="ij")
    prepared = preprocess(jnp.asarray(video), kind)
    assert prepared.shape == (1, 2, 224, 224, 3)
    for frame, found in zip(video[0], prepared[0], strict=True):
        expected = map_coordinates(frame / 127.5 - 1, places, order=1, mode="nearest")
        np.testing.assert_allclose(found, expected, atol=2e-4)  # places round in float32


@pytest.mark.parametrize("sizes", [(5, 6, 7), (4, 9, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_padded_as_by_tensorflow(sizes, stride):
    """One value a stride; the odd zero comes behind."""
    random = np.random.default_rng(0)
    layer = NormedConv(3, (3, 3, 3), stride, "SAME")
    features = random.standard_normal((2, *sizes, 2)).astype(np.float32)
    params = jax.tree.map(
        lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32),
        layer.init(jax.random.key(0), jnp.asarray(features))["params"],
    )
    counts = [-(-size // stride) for size in sizes]
    missing = [max((n - 1) * stride + 3 - s, 0) for n, s in zip(counts, sizes, strict=True)]
    padding = [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)]
    padded = np.pad(features.astype(np.float64), padding)
    expected = np.zeros((2, *counts, 3))
    for place in np.ndindex(*counts):
        t, h, w = (stride * i for i in place)
        window = padded[:, t : t + 3, h : h + 3, w : w + 3]
        expected[(slice(None), *place)] = np.einsum("bthwc,thwcd->bd", window, params["kernel"])
    normed = (expected - params["mean"]) / np.sqrt(params["variance"] + 1e-3)
    expected = np.maximum(normed * params["scale"] + params["bias"], 0)
    assert 0 < np.mean(expected == 0) < 1
    out = layer.apply({"params": params}, jnp.asarray(features))
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_pooling_takes_the_maximum_of_what_lies_on_the_map():
    features = np.random.default_rng(0).standard_normal((2, 5, 8, 7, 3)).astype(np.float32) - 5
    found = max_pool(jnp.asarray(features), (3, 3, 3), (2, 2, 2))
    around = maximum_filter(features, (1, 3, 3, 3, 1), mode="constant", cval=-np.inf)
    # Odd sizes have a border on both sides, even ones only behind.
    np.testing.assert_array_equal(found, around[:, ::2, 1::2, ::2])
    np.testing.assert_array_equal(max_pool(jnp.asarray(features), (3, 3, 3), (1, 1, 1)), around)


def test_a_block_has_its_branches_in_order():
    """Only one branch passes at a time: its channels, and no others, are lit."""
    block = InceptionBlock((1, 2, 3, 4, 5, 6))
    features = jnp.ones((1, 2, 3, 3, 2))
    shapes = jax.eval_shape(block.init, jax.random.key(0), features)["params"]
    ones = {"kernel", "variance"}
    dark = {
        name: {leaf: jnp.full(x.shape, float(leaf in ones)) for leaf, x in layer.items()}
        for name, layer in shapes.items()
    }
    apply = jax.jit(block.apply)
    ends, starts = {"b0": 1, "b1b": 4, "b2b": 9, "b3b": 15}, iter((0, 1, 4, 9))
    for name, end in ends.items():
        lit = {**dark, name: {**dark[name], "bias": jnp.ones_like(dark[name]["bias"])}}
        out = np.asarray(apply({"params": lit}, features))
        assert out.shape[-1] == 15
        start = next(starts)
        assert (out[..., start:end] == 1).all()
        assert out.sum() == out[..., start:end].sum()

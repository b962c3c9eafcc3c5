"""The published outputs of MaskGIT-VQ, for weights made by a rule (see tests/golden/README.md)."""

import json
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.interop.conversion import convert, find_layout
from igpt_jax.tokenizers.base import ImageTokenizer
from igpt_jax.tokenizers.maskgit_vq import MaskGITVQ, MaskGITVQConfig

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "maskgit_vq.npz")
SHAPES = {
    name: tuple(shape) for name, shape in json.loads(str(GOLDEN["meta"]))["param_shapes"].items()
}


def ruled_weight(name):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(SHAPES[name])
    draw = draw.astype(np.float32)
    if draw.ndim >= 2:
        scale = 1 if name.endswith("embedding.weight") else np.sqrt(np.prod(draw.shape[1:]))
        return (draw / scale).astype(np.float32)
    return (1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw).astype(np.float32)


@pytest.fixture(scope="module")
def weights():
    return {name: ruled_weight(name) for name in SHAPES}


@pytest.fixture(scope="module")
def run(weights):
    model, params = convert(weights, "maskgit-vq", image_size=32)

    def run(argument, method):
        apply = jax.jit(partial(model.apply, method=method))
        return np.asarray(apply({"params": params}, jnp.asarray(argument)))

    return run


@pytest.fixture(scope="module")
def images():
    """Squares of 4 pixels in [0, 1]."""
    draw = np.random.default_rng(0).uniform(0, 1, (3, 8, 8, 3)).astype(np.float32)
    return draw.repeat(4, 1).repeat(4, 2)


def test_latents_and_tokens_are_the_published(run, images):
    latents = GOLDEN["latents"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(run(2 * images - 1, "latents"), latents, atol=1e-4)
    np.testing.assert_array_equal(run(2 * images - 1, "encode"), GOLDEN["tokens"])


@pytest.mark.parametrize(
    ("tokens", "pictures"),
    [
        (GOLDEN["tokens"], GOLDEN["reconstruction"]),
        (np.random.default_rng(1).integers(0, 64, (2, 16)), GOLDEN["decoded_random"]),
    ],
    ids=["of images", "random"],
)
def test_decoded_pictures_are_the_published(run, tokens, pictures):
    decoded = run(tokens.astype(np.int32), "decode")
    np.testing.assert_allclose((decoded + 1) / 2, pictures.transpose(0, 2, 3, 1), atol=1e-4)


def test_a_call_encodes_and_decodes(run, images):
    np.testing.assert_allclose(
        (run(2 * images - 1, "__call__") + 1) / 2,
        GOLDEN["reconstruction"].transpose(0, 2, 3, 1),
        atol=1e-4,
    )


def test_the_layout_fills_every_parameter(weights):
    model, params = convert(weights, "maskgit-vq", image_size=32)
    wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, wanted)


def test_the_default_config_has_the_published_number_of_parameters():
    model = MaskGITVQ(MaskGITVQConfig())
    assert isinstance(model, ImageTokenizer)
    assert (model.image_size, model.grid_shape, model.vocab_size) == (256, (16, 16), 1024)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == 54_515_587


def specs_without(name):
    return {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in SHAPES.items() if n != name}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (specs_without("quantize.embedding.weight"), "expected an array quantize.embedding.weight"),
        (specs_without("decoder.mid.1.conv2.weight"), r"expected decoder\.mid\.1\.conv2\.weight"),
        (
            specs_without("")
            | {"encoder.conv_in.weight": jax.ShapeDtypeStruct((48, 3, 3, 3), np.float32)},
            "expected levels of multiples of the 48 channels",
        ),
    ],
    ids=["size", "layer", "channels"],
)
def test_other_checkpoints_are_refused(specs, message):
    with pytest.raises(UserError, match=message):
        find_layout(specs, "maskgit-vq", image_size=32)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="multiple of the downsampling 16, got 100"):
        MaskGITVQConfig(image_size=100)

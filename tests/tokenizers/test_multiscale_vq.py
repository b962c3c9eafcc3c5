"""VAR's tokenizer against the published implementation (see tests/golden/README.md)."""

import json
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.interop.conversion import converted
from igpt_jax.interop.layouts.multiscale_vq import var_vq
from igpt_jax.scales import SCALES_256, SCALES_512, scale_bounds
from igpt_jax.tokenizers.base import ImageTokenizer
from igpt_jax.tokenizers.multiscale_vq import MultiscaleVQ, MultiscaleVQConfig

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "multiscale_vq.npz")
SHAPES = json.loads(str(GOLDEN["meta"]))["param_shapes"]


def draw(name, shape):
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.standard_normal(shape).astype(np.float32)


def ruled_weight(name, shape):
    values = draw(name, shape)
    if len(shape) >= 2:
        kept = name.endswith("embedding.weight")
        return values if kept else values / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    return np.float32(0.1) * values + np.float32(name.endswith("weight"))


def params_of(layout):
    arrays = {name: ruled_weight(name, shape) for name, shape in layout.shapes.items()}
    params = {}
    for path, values in converted(layout, arrays):
        *parents, leaf = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(values)
    return params


@pytest.fixture(scope="module")
def published():
    specs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    specs["quantize.ema_vocab_hit_SV"] = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    layout = var_vq(specs, image_size=64, scales=(1, 2, 3, 4))
    return layout.module, params_of(layout)


def run(model, params, argument, method):
    return jax.jit(partial(model.apply, method=method))({"params": params}, argument)


def test_the_layout_names_every_published_array():
    specs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    layout = var_vq(specs, image_size=64, scales=(1, 2, 3, 4))
    assert {name: list(shape) for name, shape in layout.shapes.items()} == SHAPES
    used = {name for source in layout.sources.values() for name in source.names}
    assert used == set(SHAPES)


def test_the_published_tokens(published):
    model, params = published
    images = jnp.asarray(np.clip(draw("images", (2, 64, 64, 3)) / 2, -1, 1))
    latents = run(model, params, images, "latents")
    np.testing.assert_allclose(latents, GOLDEN["latents"], atol=1e-5)
    tokens = run(model, params, latents, "quantize")
    np.testing.assert_array_equal(tokens, GOLDEN["tokens"])


def test_the_published_pictures(published):
    model, params = published
    for tokens, pictures in (("tokens", "reconstruction"), ("random_tokens", "decoded_random")):
        decoded = run(model, params, jnp.asarray(GOLDEN[tokens][:1]), "decode")
        np.testing.assert_allclose(decoded, GOLDEN[pictures], atol=1e-4)
        assert np.abs(decoded).max() <= 1


def test_what_the_transformer_sees(published):
    model, params = published
    tokens = jnp.asarray(GOLDEN["random_tokens"])
    accumulated = run(model, params, tokens, "accumulate")
    np.testing.assert_allclose(jnp.stack(accumulated), GOLDEN["accumulated"], atol=1e-5)
    inputs = run(model, params, tokens, "next_inputs")
    np.testing.assert_allclose(inputs, GOLDEN["next_inputs"], atol=1e-5)


def test_the_published_ten_scales(published):
    _, params = published
    model = MultiscaleVQ(MultiscaleVQConfig(base_channels=32, latent_channels=8, codebook_size=64))
    tokens = run(model, params, jnp.asarray(draw("ten_scale_latents", (1, 16, 16, 8))), "quantize")
    np.testing.assert_array_equal(tokens, GOLDEN["ten_tokens"])
    accumulated = run(model, params, tokens, "accumulate")
    np.testing.assert_allclose(accumulated[-1], GOLDEN["ten_accumulated"], atol=1e-5)
    inputs = run(model, params, tokens, "next_inputs")
    np.testing.assert_allclose(inputs[:, ::7], GOLDEN["ten_next_inputs"], atol=1e-5)


def test_encode_goes_from_pictures_to_tokens(published):
    model, params = published
    images = jnp.asarray(np.clip(draw("images", (2, 64, 64, 3)) / 2, -1, 1))
    np.testing.assert_array_equal(run(model, params, images, "encode"), GOLDEN["tokens"])


def test_the_published_size():
    model = MultiscaleVQ(MultiscaleVQConfig())
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 108_948_355
    # Which convolution each of the ten scales has, as NumPy finds it in the published code.
    assert model.config.phi_of_scale == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert isinstance(model, ImageTokenizer)
    assert model.grid_shape == (1, 680)
    assert scale_bounds(SCALES_256)[-1] == (424, 680)
    assert MultiscaleVQConfig(image_size=512, scales=SCALES_512).seq_len == 2_240


@pytest.mark.parametrize("scales", [(1, 2), (2, 16), (1, 16, 16), (16,)])
def test_scales_that_do_not_end_with_the_latents_are_refused(scales):
    with pytest.raises(UserError, match="scale"):
        MultiscaleVQConfig(scales=scales)


def test_a_size_without_published_scales_asks_for_them():
    with pytest.raises(UserError, match="pass scales"):
        var_vq({}, image_size=384)

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_autoencoder import SMALL, abstract_variables, random_params, small_autoencoder

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.presets import llamagen_vq, patch_vq, taming_vqgan, vqgan
from igpt_jax.tokenizers.quantizers import (
    MovingAverageQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(KEY, (2, 16, 16, 3), minval=-1, maxval=1)
FULL = small_autoencoder(middle=True, attention=True)
VECTOR = small_autoencoder(quantizer=VectorQuantizerConfig(10, 3))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (llamagen_vq(16), 71_883_403),
        (llamagen_vq(8), 70_109_835),
        (taming_vqgan(), 72_141_699),
        (taming_vqgan(codebook_size=16_384), 76_073_859),
    ],
    ids=["LlamaGen VQ-16", "LlamaGen VQ-8", "taming f16 1024", "taming f16 16384"],
)
def test_parameter_counts_are_the_published_ones(config, expected):
    variables = abstract_variables(Autoencoder(config))
    assert set(variables) == {"params"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == expected


@pytest.mark.parametrize("image_size", [64, 128, 256, 512])
def test_a_preset_for_every_resolution(image_size):
    config = vqgan(image_size)
    assert config.grid_shape[0] == {64: 16, 128: 16, 256: 16, 512: 32}[image_size]


@pytest.mark.parametrize("downsample", [1, 2, 4, 8, 16, 32])
def test_every_downsampling_has_its_grid(downsample):
    config = vqgan(64, downsample, base_channels=4, latent_channels=4, attention=False)
    model = Autoencoder(config)
    side = 64 // downsample
    assert config.grid_shape == (side, side)
    shapes = abstract_variables(model)
    tokens = jax.ShapeDtypeStruct((2, side * side), jnp.int32)
    decoded = jax.eval_shape(partial(model.apply, method="decode"), shapes, tokens)
    assert decoded.shape == (2, 64, 64, 3)


def test_presets_refuse_what_is_not_published():
    for make, word in (
        (lambda: llamagen_vq(4), "one of 8, 16, got 4"),
        (lambda: vqgan(100), "one of 64, 128, 256, 384, 512, got 100"),
        (lambda: vqgan(64, 3), "one of 1, 2, 4, 8, 16, 32, got 3"),
    ):
        with pytest.raises(UserError, match=word):
            make()


@pytest.mark.parametrize(
    "quantizer",
    [VectorQuantizerConfig(10, 3), ResidualQuantizerConfig(2, MovingAverageQuantizerConfig(10, 3))],
)
def test_other_grids_than_the_configs(quantizer):
    model = small_autoencoder(quantizer=quantizer)
    variables = {"params": random_params(model)}
    images = jax.random.uniform(KEY, (2, 24, 8, 3), minval=-1, maxval=1)
    tokens = model.apply(variables, images, method="encode")
    assert tokens.shape == (2, 6 * 2 * model.config.num_levels)
    decoded = model.apply(variables, tokens, grid_shape=(6, 2), method="decode")
    expected = model.apply(variables, images).reconstruction
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
    with pytest.raises(UserError, match="grid_shape"):
        model.apply(variables, tokens, method="decode")


@pytest.mark.parametrize("model", [FULL, VECTOR], ids=["full", "vector"])
def test_the_methods_agree(model):
    variables = {"params": random_params(model)}
    output = jax.jit(model.apply)(variables, IMAGES)
    assert output.reconstruction.shape == IMAGES.shape
    code_dim = model.config.quantizer.code_dim
    assert output.latents.shape == output.quantized.shape == (2, 4, 4, code_dim)
    apply = jax.jit(model.apply, static_argnames="method")
    np.testing.assert_array_equal(apply(variables, IMAGES, method="encode"), output.tokens)
    latents = apply(variables, IMAGES, method="latents")
    np.testing.assert_allclose(latents, output.latents, atol=1e-5)
    decoded = apply(variables, output.tokens, method="decode")
    np.testing.assert_allclose(decoded, output.reconstruction, atol=1e-5)


def test_tokens_are_in_raster_order():
    model = small_autoencoder(channel_multipliers=(1,), num_decoder_res_blocks=0)
    variables = {"params": random_params(model)}
    decode = jax.jit(partial(model.apply, method="decode"))
    tokens = jnp.zeros((1, 64), jnp.int32)
    changed = decode(variables, tokens.at[0, 1 * 8 + 6].set(11)) - decode(variables, tokens)
    row, column, _ = np.unravel_index(np.abs(np.asarray(changed)[0]).argmax(), (16, 16, 3))
    # Two 3x3 convolutions spread it to two patches (of 2 pixels) a side at most.
    assert row // 2 == pytest.approx(1, abs=2)
    assert column // 2 == pytest.approx(6, abs=2)


def test_a_local_encoder_sees_each_patch_alone():
    changed = IMAGES.at[:, 4:8, 8:12].set(0.3)  # the patch in row 1 and column 2
    for local in (False, True):
        model = small_autoencoder(channel_multipliers=(1,), patch_size=4, local_encoder=local)
        params = random_params(model)
        latents = [
            model.apply({"params": params}, images, method="latents")
            for images in (IMAGES, changed)
        ]
        moved = np.any(np.asarray(latents[0] != latents[1]), axis=(0, 3))
        assert moved[1, 2]
        assert moved.sum() == (1 if local else moved.size)


def test_sizes_follow_the_config():
    model = small_autoencoder()
    assert SMALL.downsample == 4
    assert SMALL.grid_shape == model.grid_shape == (4, 4)
    assert SMALL.vocab_size == model.vocab_size == 12
    assert model.image_size == 16


def test_flags_leave_blocks_out():
    full, plain = (
        set(abstract_variables(model)["params"]["encoder"]) for model in (FULL, small_autoencoder())
    )
    assert full - plain == {"mid_res_0", "mid_attention", "mid_res_1", "level_1_attention_0"}
    assert plain < full


def test_bfloat16_keeps_parameters_and_quantization_in_float32():
    model = Autoencoder(SMALL, dtype=jnp.bfloat16)
    variables = abstract_variables(model)
    output = jax.eval_shape(model.apply, variables, IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert output.latents.dtype == output.reconstruction.dtype == jnp.float32


def test_a_local_encoder_is_refused_where_layers_would_mix_patches():
    for changes in ({"attention": True}, {"channel_multipliers": (1, 2)}):
        with pytest.raises(UserError, match="local_encoder: expected attention=False and one"):
            dataclasses.replace(patch_vq(64, 8), **changes)


def test_config_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="multiple of the downsampling 16"):
        AutoencoderConfig(image_size=100)
    with pytest.raises(UserError, match="channel_multipliers"):
        AutoencoderConfig(channel_multipliers=())

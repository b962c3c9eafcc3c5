import jax
import jax.numpy as jnp
import pytest
from small_autoencoder import random_params, small_autoencoder

from igpt_jax.tokenizers.base import ImageTokenizer, decode, encode, tokenizer_hash
from igpt_jax.tokenizers.palette import Palette, PaletteConfig

PARAMS = {"a": jnp.arange(3.0), "b": {"c": jnp.zeros((2, 2), jnp.bfloat16)}}


@pytest.mark.parametrize(
    "tokenizer", [Palette(PaletteConfig(8, 5)), small_autoencoder()], ids=["palette", "autoencoder"]
)
def test_every_tokenizer_offers_the_same(tokenizer):
    assert isinstance(tokenizer, ImageTokenizer)
    side = tokenizer.image_size
    images = jax.random.uniform(jax.random.key(0), (2, side, side, 3), minval=-1, maxval=1)
    params = random_params(tokenizer)
    tokens = jax.jit(encode, static_argnums=0)(tokenizer, params, images)
    rows, columns = tokenizer.grid_shape
    assert tokens.shape == (2, rows * columns)
    assert tokens.min() >= 0
    assert tokens.max() < tokenizer.vocab_size
    reconstruction = jax.jit(decode, static_argnums=0)(tokenizer, params, tokens)
    assert reconstruction.shape == images.shape
    assert reconstruction.dtype == jnp.float32


def test_hash_ignores_order_and_spacing():
    reordered = {"b": {"c": PARAMS["b"]["c"]}, "a": PARAMS["a"]}
    assert tokenizer_hash('{"x": 1, "y": 2}', PARAMS) == tokenizer_hash('{"y":2,"x":1}', reordered)


@pytest.mark.parametrize(
    "changed",
    [
        PARAMS | {"a": PARAMS["a"].at[2].set(3.0)},
        PARAMS | {"a": PARAMS["a"].reshape(3, 1)},
        PARAMS | {"a": jax.lax.bitcast_convert_type(PARAMS["a"], jnp.int32)},
        {"d": PARAMS["a"], "b": PARAMS["b"]},
    ],
    ids=["value", "shape", "dtype", "name"],
)
def test_hash_sees_each_change_of_a_parameter(changed):
    assert tokenizer_hash("{}", changed) != tokenizer_hash("{}", PARAMS)


def test_hash_sees_the_config():
    assert tokenizer_hash('{"x": 1}', PARAMS) != tokenizer_hash('{"x": 2}', PARAMS)

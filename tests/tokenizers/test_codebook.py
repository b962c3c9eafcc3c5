import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_autoencoder import SMALL, random_params, small_autoencoder

from igpt_jax.tokenizers.base import encode
from igpt_jax.tokenizers.codebook import (
    codebook_usage,
    init_codebook,
    marginal_entropy,
    perplexity,
    start_codebook,
    token_counts,
)
from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.tokenizers.quantizers import (
    GumbelQuantizerConfig,
    MovingAverageQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)

KEY = jax.random.key(0)


def shares_of(tokens, codebook_size):
    return token_counts(tokens, codebook_size) / tokens.size


def test_measures_of_known_tokens():
    tokens = jnp.asarray([[0, 0, 1], [1, 3, 3]])
    assert token_counts(tokens, 5).tolist() == [2, 2, 0, 2, 0]
    assert shares_of(tokens, 5) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0])
    assert codebook_usage(shares_of(tokens, 5)) == pytest.approx(0.6)
    assert marginal_entropy(shares_of(tokens, 5)) == pytest.approx(np.log(3), rel=1e-5)
    assert jax.jit(perplexity)(shares_of(tokens, 5)) == pytest.approx(3, rel=1e-5)
    several = jnp.stack([shares_of(tokens, 5), jnp.eye(5)[0]])
    np.testing.assert_allclose(perplexity(several), [3, 1], rtol=1e-5)


@pytest.mark.parametrize("l2_normalize", [False, True])
def test_every_code_starts_in_use(l2_normalize):
    latents = jax.random.normal(KEY, (4, 8, 8, 4)) + 3.0
    codebook = init_codebook(latents, KEY, codebook_size=32, l2_normalize=l2_normalize)
    assert codebook.shape == (32, 4)
    if l2_normalize:
        np.testing.assert_allclose(np.linalg.norm(codebook, axis=-1), 1.0, atol=1e-5)
        latents = latents / jnp.linalg.norm(latents, axis=-1, keepdims=True)
    assert codebook_usage(shares_of(nearest(latents, codebook), 32)) == 1.0


@pytest.mark.parametrize(
    "quantizer",
    [
        VectorQuantizerConfig(12, 3, False),
        MovingAverageQuantizerConfig(12, 3),
        ResidualQuantizerConfig(1, MovingAverageQuantizerConfig(12, 3)),
    ],
)
def test_a_model_starts_with_all_codes_in_use(quantizer):
    model = small_autoencoder(quantizer=quantizer)
    images = jax.random.uniform(KEY, (16, 16, 16, 3), minval=-1, maxval=1)
    params = random_params(model)
    latents = model.apply({"params": params}, images, method="latents")
    started = jax.jit(start_codebook, static_argnums=0)(model, params, latents, KEY)
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, params)
    tokens = jax.jit(encode, static_argnums=0)(model, started, images)
    assert codebook_usage(shares_of(tokens, 12)) == 1.0


@pytest.mark.parametrize("quantizer", [SMALL.quantizer, GumbelQuantizerConfig(12, 3)])
def test_a_model_without_distances_to_codes_keeps_its_parameters(quantizer):
    model = small_autoencoder(quantizer=quantizer)
    params = random_params(model)
    started = start_codebook(model, params, jnp.zeros((1, 3)), KEY)
    jax.tree.map(np.testing.assert_array_equal, started, params)

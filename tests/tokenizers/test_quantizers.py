import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.quantizers import (
    FiniteScalarQuantizer,
    FiniteScalarQuantizerConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
    build_quantizer,
    l2_normalized,
)

KEY = jax.random.key(0)
LATENTS = jax.random.normal(KEY, (2, 3, 3, 4))


def vector_quantizer(l2_normalize=False):
    module = VectorQuantizer(VectorQuantizerConfig(16, 4, l2_normalize))
    codebook = jax.random.normal(jax.random.key(1), (16, 4))
    return module, {"codebook": codebook}


def numpy_quantize(latents, codebook, l2_normalize):
    latents, codebook = np.asarray(latents, np.float64), np.asarray(codebook, np.float64)
    if l2_normalize:
        latents = latents / np.linalg.norm(latents, axis=-1, keepdims=True)
        codebook = codebook / np.linalg.norm(codebook, axis=-1, keepdims=True)
    tokens = ((latents[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)
    loss = ((codebook[tokens] - latents) ** 2).mean()
    return codebook[tokens], tokens, loss


@pytest.mark.parametrize("l2_normalize", [False, True])
def test_vector_quantizer_against_numpy(l2_normalize):
    module, params = vector_quantizer(l2_normalize)
    result = module.apply({"params": params}, LATENTS)
    quantized, tokens, loss = numpy_quantize(LATENTS, params["codebook"], l2_normalize)
    np.testing.assert_array_equal(result.tokens, tokens)
    np.testing.assert_allclose(result.quantized, quantized, atol=1e-6)
    np.testing.assert_allclose(result.codebook_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(result.commitment_loss, loss, rtol=1e-5)
    looked_up = module.apply({"params": params}, result.tokens, method="lookup")
    np.testing.assert_allclose(looked_up, quantized, atol=1e-6)


@pytest.mark.parametrize("l2_normalize", [False, True])
def test_each_loss_moves_its_own_side_only(l2_normalize):
    module, params = vector_quantizer(l2_normalize)

    def gradients(term):
        def loss(params, latents):
            return getattr(module.apply({"params": params}, latents), term)

        codebook, latents = jax.grad(loss, argnums=(0, 1))(params, LATENTS)
        return np.abs(codebook["codebook"]).sum(), np.abs(latents).sum()

    codebook, latents = gradients("codebook_loss")
    assert codebook > 0
    assert latents == 0
    codebook, latents = gradients("commitment_loss")
    assert codebook == 0
    assert latents > 0


def test_gradients_pass_straight_through_to_the_latents():
    module, params = vector_quantizer()
    weights = jax.random.normal(jax.random.key(2), LATENTS.shape)

    def loss(params, latents):
        return jnp.sum(weights * module.apply({"params": params}, latents).quantized)

    codebook, latents = jax.grad(loss, argnums=(0, 1))(params, LATENTS)
    np.testing.assert_allclose(latents, weights, atol=1e-6)
    np.testing.assert_array_equal(codebook["codebook"], 0)


def test_quantization_is_float32_whatever_comes_in():
    module, params = vector_quantizer()
    result = module.apply({"params": params}, LATENTS.astype(jnp.bfloat16))
    assert result.quantized.dtype == jnp.float32
    assert result.tokens.dtype == jnp.int32


def test_a_zero_vector_has_a_finite_gradient():
    gradient = jax.grad(lambda x: l2_normalized(x).sum())(jnp.zeros((2, 4)))
    assert np.all(np.isfinite(gradient))


def test_codebook_starts_as_published():
    module = VectorQuantizer(VectorQuantizerConfig(16, 4, False))
    codebook = module.init(KEY, LATENTS)["params"]["codebook"]
    assert codebook.shape == (16, 4)
    assert 0.05 < np.abs(codebook).max() <= 1 / 16


@pytest.mark.parametrize("levels", [(2,), (3, 4), (8, 5, 5), (2, 3, 4, 5)])
def test_finite_scalar_tokens_are_a_bijection(levels):
    module = FiniteScalarQuantizer(FiniteScalarQuantizerConfig(levels))
    tokens = jnp.arange(module.config.codebook_size)
    codes = np.asarray(module.apply({}, tokens, method="lookup"))
    expected = [(np.arange(level) - level // 2) / (level // 2) for level in levels]
    # The first dimension varies fastest.
    grid = [row[::-1] for row in itertools.product(*expected[::-1])]
    np.testing.assert_allclose(codes, grid, atol=1e-6)
    # Latents between the thresholds of each level come back as that level's code.
    halves = np.asarray(levels) // 2
    offset = np.where(np.asarray(levels) % 2 == 0, 0.5, 0.0)
    half_range = (np.asarray(levels) - 1) * (1 + module.epsilon) / 2
    shift = np.arctanh(offset / half_range)
    latents = np.arctanh((codes * halves + offset) / half_range) - shift
    result = module.apply({}, jnp.asarray(latents, jnp.float32))
    np.testing.assert_array_equal(result.tokens, tokens)
    np.testing.assert_allclose(result.quantized, codes, atol=1e-6)


def test_finite_scalar_reaches_its_bounds_and_keeps_zero():
    module = FiniteScalarQuantizer(FiniteScalarQuantizerConfig((4, 5)))
    result = module.apply({}, jnp.asarray([[-9.0, -9.0], [9.0, 9.0], [0.0, 0.0]]))
    np.testing.assert_allclose(result.quantized, [[-1, -1], [0.5, 1], [0, 0]], atol=1e-6)
    assert result.tokens.tolist() == [0, 19, 2 + 4 * 2]


def test_finite_scalar_gradient_is_that_of_the_bound():
    module = FiniteScalarQuantizer(FiniteScalarQuantizerConfig((5,)))
    point = jnp.asarray([[0.3]])
    gradient = jax.grad(lambda x: module.apply({}, x).quantized.sum())(point)
    half_range = 2 * (1 + module.epsilon)
    np.testing.assert_allclose(gradient, half_range / 2 * (1 - np.tanh(0.3) ** 2), rtol=1e-4)
    assert module.init(KEY, point) == {}


def test_build_follows_the_config():
    assert isinstance(build_quantizer(VectorQuantizerConfig()), VectorQuantizer)
    assert isinstance(build_quantizer(FiniteScalarQuantizerConfig()), FiniteScalarQuantizer)


def test_configs_refuse_what_cannot_be():
    with pytest.raises(UserError, match="codebook_size"):
        VectorQuantizerConfig(codebook_size=1)
    for levels in ((), (8, 1)):
        with pytest.raises(UserError, match="levels"):
            FiniteScalarQuantizerConfig(levels)

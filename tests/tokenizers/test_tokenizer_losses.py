import jax
import numpy as np
import optax
import pytest
from small_autoencoder import SMALL, random_params, small_autoencoder

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.losses import AutoencoderLossConfig, autoencoder_loss, summarize
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig

KEY = jax.random.key(0)
MODEL = small_autoencoder(quantizer=VectorQuantizerConfig(10, 3, False))
IMAGES = jax.random.uniform(KEY, (2, 16, 16, 3), minval=-1, maxval=1)

loss_of = jax.jit(autoencoder_loss, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


def test_the_loss_is_the_weighted_sum_of_its_terms(params):
    config = AutoencoderLossConfig(
        l1_weight=0.5,
        l2_weight=2.0,
        perceptual_weight=0.3,
        codebook_weight=3.0,
        commitment_weight=0.75,
    )
    loss, metrics = loss_of(MODEL, params, IMAGES, config)
    expected = (
        0.5 * metrics["l1_loss"]
        + 2.0 * metrics["l2_loss"]
        + 0.3 * metrics["perceptual_loss"]
        + 3.0 * metrics["codebook_loss"]
        + 0.75 * metrics["commitment_loss"]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    reconstruction = jax.jit(MODEL.apply)({"params": params}, IMAGES).reconstruction
    np.testing.assert_allclose(
        metrics["l1_loss"], np.abs(reconstruction - IMAGES).mean(), rtol=1e-5
    )
    summary = summarize(metrics)
    assert {"loss", "psnr", "codebook_usage", "perplexity"} <= set(summary)
    assert all(value.shape == () for value in summary.values())
    tokens = jax.jit(MODEL.apply)({"params": params}, IMAGES).tokens
    assert summary["codebook_usage"] == pytest.approx(len(np.unique(tokens)) / 10)
    counts = np.bincount(np.asarray(tokens).reshape(-1))
    shares = counts[counts > 0] / tokens.size
    perplexity = np.exp(-(shares * np.log(shares)).sum())
    np.testing.assert_allclose(summary["perplexity"], perplexity, rtol=1e-5)


def test_dropout_is_on_with_a_key_only():
    model = small_autoencoder(quantizer=MODEL.config.quantizer, dropout_rate=0.5)
    params = random_params(model)
    still, dropped = (loss_of(model, params, IMAGES, key=key)[1]["l2_loss"] for key in (None, KEY))
    np.testing.assert_allclose(still, loss_of(MODEL, params, IMAGES)[1]["l2_loss"], rtol=1e-6)
    assert abs(dropped - still) > 1e-3 * still


@pytest.mark.parametrize("quantizer", [VectorQuantizerConfig(10, 3), SMALL.quantizer])
def test_training_reduces_the_loss(quantizer):
    model = small_autoencoder(quantizer=quantizer)
    params = random_params(model)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, opt_state):
        grad = jax.value_and_grad(lambda p: autoencoder_loss(model, p, IMAGES), has_aux=True)
        (loss, _), gradients = grad(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state = optimizer.init(params)
    losses = []
    for _ in range(30):
        params, opt_state, loss = step(params, opt_state)
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]


def test_taming_legacy_swaps_codebook_and_commitment():
    published = AutoencoderLossConfig(compat="taming-legacy").weights
    assert (published["codebook"], published["commitment"]) == (0.25, 1.0)
    corrected = AutoencoderLossConfig().weights
    assert (corrected["codebook"], corrected["commitment"]) == (1.0, 0.25)


def test_a_loss_that_compares_no_pixels_is_refused():
    with pytest.raises(UserError, match="l2_weight"):
        AutoencoderLossConfig(l2_weight=0.0)

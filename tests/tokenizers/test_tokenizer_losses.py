import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_autoencoder import SMALL, random_params, small_autoencoder

from igpt_jax.tokenizers.losses import AutoencoderLossConfig, autoencoder_loss, psnr
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig

KEY = jax.random.key(0)
MODEL = small_autoencoder(quantizer=VectorQuantizerConfig(10, 3, False))
IMAGES = jax.random.uniform(KEY, (2, 16, 16, 3), minval=-1, maxval=1)

loss_of = jax.jit(autoencoder_loss, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


def test_psnr_of_a_known_error():
    images = jnp.zeros((3, 4, 4, 3))
    assert psnr(images, images + 0.2) == pytest.approx(20.0, abs=1e-4)
    assert psnr(images + 1, images + 9) == pytest.approx(106.02, abs=1e-2)  # clipped to exact


def test_the_loss_is_the_weighted_sum_of_its_terms(params):
    config = AutoencoderLossConfig(0.5, 2.0, 3.0, 0.75)
    loss, metrics = loss_of(MODEL, params, IMAGES, config)
    expected = (
        0.5 * metrics["l1_loss"]
        + 2.0 * metrics["l2_loss"]
        + 3.0 * metrics["codebook_loss"]
        + 0.75 * metrics["commitment_loss"]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    reconstruction = jax.jit(MODEL.apply)({"params": params}, IMAGES).reconstruction
    np.testing.assert_allclose(
        metrics["l1_loss"], np.abs(reconstruction - IMAGES).mean(), rtol=1e-5
    )
    assert {"loss", "psnr", "codebook_usage", "perplexity"} <= set(metrics)
    assert all(value.shape == () for value in metrics.values())


def test_dropout_is_on_with_a_key_only():
    model = small_autoencoder(quantizer=MODEL.config.quantizer, dropout_rate=0.5)
    params = random_params(model)
    still, dropped = (
        loss_of(model, params, IMAGES, dropout_key=key)[1]["l2_loss"] for key in (None, KEY)
    )
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

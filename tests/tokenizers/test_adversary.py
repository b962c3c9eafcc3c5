"""The game between a tokenizer and a discriminator: who gets which gradient, and when."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_autoencoder import random_params, small_autoencoder

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.adversarial_losses import discriminator_loss, generator_loss
from igpt_jax.tokenizers.adversary import (
    AUTOENCODER,
    DISCRIMINATOR,
    AdversaryConfig,
    adversarial_loss,
    init_players,
)
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig, build_discriminator
from igpt_jax.tokenizers.losses import AutoencoderLossConfig, autoencoder_loss
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig

KEY = jax.random.key(0)
MODEL = small_autoencoder(quantizer=VectorQuantizerConfig(10, 3, False))
NETWORK = PatchDiscriminatorConfig(base_channels=8, num_layers=1)
DISC = build_discriminator(NETWORK)
IMAGES = jax.random.uniform(KEY, (4, 16, 16, 3), minval=-1, maxval=1)
LOSS = AutoencoderLossConfig()
PLAYED = AdversaryConfig(
    NETWORK, weight=0.7, adaptive=False, start_step=10, lead_steps=4, lecam_weight=0.0
)


@pytest.fixture(scope="module")
def params():
    players = jax.jit(init_players, static_argnums=(0, 1))(MODEL, DISC, IMAGES[:1], KEY)
    return {**players, AUTOENCODER: random_params(MODEL)}


@jax.jit
def own_gradient(params):
    return jax.value_and_grad(lambda own: autoencoder_loss(MODEL, own, IMAGES, LOSS)[0])(
        params[AUTOENCODER]
    )


def play(params, step, adversary=PLAYED):
    phase = adversary.phases[max(at for at in adversary.phases if at <= step)]
    return compiled(phase, adversary)(params)


@functools.cache
def compiled(phase, adversary):
    def loss(params):
        return adversarial_loss(MODEL, DISC, params, IMAGES, LOSS, adversary, phase=phase, key=KEY)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def reconstruct(own):
    return MODEL.apply({"params": own}, IMAGES).reconstruction


def judge(network, images):
    return DISC.apply({"params": network}, images)


def assert_close(tree, other, rtol=1e-3):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5 * largest), tree, other
    )


def test_before_the_start_the_tokenizer_learns_as_without_an_adversary(params):
    expected, gradient = own_gradient(params)
    for step in (0, 6):
        (loss, metrics), gradients = play(params, step)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert_close(gradients[AUTOENCODER], gradient)
        assert metrics["adversarial_weight"] == 0
        assert metrics["adversarial_loss"] == 0


def test_the_discriminator_learns_first_and_only_from_its_own_loss(params):
    (_, metrics), gradients = play(params, 5)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients[DISCRIMINATOR]["network"]))
    assert metrics["discriminator_loss"] == 0
    fake = reconstruct(params[AUTOENCODER])

    def expected(network):
        return discriminator_loss("hinge", judge(network, IMAGES), judge(network, fake))

    for step in (9, 10):
        (_, metrics), gradients = play(params, step)
        wanted = jax.grad(expected)(params[DISCRIMINATOR]["network"])
        assert_close(gradients[DISCRIMINATOR]["network"], wanted)
        np.testing.assert_allclose(
            metrics["discriminator_loss"],
            expected(params[DISCRIMINATOR]["network"]),
            rtol=1e-5,
        )


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("non_saturating", "vanilla")]


@pytest.mark.parametrize("kind", ["hinge", *SLOW])
def test_after_the_start_the_tokenizer_gets_both_pulls(params, kind):
    adversary = dataclasses.replace(PLAYED, loss=kind)

    def expected(own):
        fooled = generator_loss(kind, judge(params[DISCRIMINATOR]["network"], reconstruct(own)))
        return autoencoder_loss(MODEL, own, IMAGES, LOSS)[0] + 0.7 * fooled

    (loss, metrics), gradients = play(params, 10, adversary)
    assert_close(gradients[AUTOENCODER], jax.grad(expected)(params[AUTOENCODER]))
    np.testing.assert_allclose(loss, own_gradient(params)[0], rtol=1e-6)
    np.testing.assert_allclose(metrics["adversarial_weight"], 0.7, rtol=1e-6)


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer(params):
    def at_last_layer(loss):
        own = params[AUTOENCODER]

        def of_kernel(kernel):
            last = {**own["decoder"]["conv_out"], "kernel": kernel}
            return loss({**own, "decoder": {**own["decoder"], "conv_out": last}})

        return float(jnp.linalg.norm(jax.grad(of_kernel)(own["decoder"]["conv_out"]["kernel"])))

    own = at_last_layer(lambda own: jnp.mean((reconstruct(own) - IMAGES) ** 2))
    network = params[DISCRIMINATOR]["network"]
    fool = at_last_layer(lambda own: generator_loss("hinge", judge(network, reconstruct(own))))
    (_, metrics), _ = play(params, 10, dataclasses.replace(PLAYED, adaptive=True))
    np.testing.assert_allclose(metrics["reconstruction_gradient"], own, rtol=1e-4)
    np.testing.assert_allclose(metrics["adversarial_gradient"], fool, rtol=1e-4)
    np.testing.assert_allclose(metrics["adversarial_weight"], 0.7 * own / (fool + 1e-4), rtol=1e-4)


def test_regularisers_and_running_means(params):
    adversary = dataclasses.replace(PLAYED, r1_weight=2.0, lecam_weight=0.5)
    running = {"running_real": jnp.float32(0.5), "running_fake": jnp.float32(-0.5)}
    params = {**params, DISCRIMINATOR: {**params[DISCRIMINATOR], **running}}
    (_, metrics), gradients = play(params, 10, adversary)
    (_, _), plain = play(params, 10)
    network = params[DISCRIMINATOR]["network"]
    real, fake = judge(network, IMAGES), judge(network, reconstruct(params[AUTOENCODER]))

    def penalties(network):
        slope = jax.grad(lambda images: judge(network, images).sum())(IMAGES)
        real, fake = judge(network, IMAGES), judge(network, reconstruct(params[AUTOENCODER]))
        lecam = jnp.mean(jax.nn.relu(real + 0.5) ** 2) + jnp.mean(jax.nn.relu(0.5 - fake) ** 2)
        return jnp.sum(slope**2) / len(IMAGES) + 0.5 * lecam

    extra = jax.grad(penalties)(network)
    assert_close(
        gradients[DISCRIMINATOR]["network"],
        jax.tree.map(jnp.add, plain[DISCRIMINATOR]["network"], extra),
    )
    for name, logits in (("real", real), ("fake", fake)):
        value = running[f"running_{name}"]
        following = value - gradients[DISCRIMINATOR][f"running_{name}"]
        np.testing.assert_allclose(following, 0.99 * value + 0.01 * logits.mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics[f"{name}_logits"], logits.mean(), rtol=1e-4)
    assert 0 <= metrics["discriminator_accuracy"] <= 1


def test_configs_refuse_what_cannot_be_played():
    with pytest.raises(UserError, match="lead_steps"):
        AdversaryConfig(start_step=5, lead_steps=6)
    with pytest.raises(UserError, match="weights of 0 or more"):
        AdversaryConfig(r1_weight=-1.0)

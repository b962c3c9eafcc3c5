"""Sizes, losses and gradients of the GAN and the VAE, against arithmetic and NumPy."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from igpt_jax.baselines.gan import (
    DISCRIMINATOR,
    GENERATOR,
    GANConfig,
    Generator,
    build_discriminator,
    gan_loss,
    init_gan,
)
from igpt_jax.baselines.logistic import MIN_LOG_SCALE, discretized_logistic
from igpt_jax.baselines.vae import VAE, VAEConfig, init_vae, negative_bound, vae_loss
from igpt_jax.errors import UserError
from igpt_jax.testing import tiny_gan_config, tiny_vae_config

GAN_SIZES, VAE_SIZES = tiny_gan_config().model, tiny_vae_config().model
KEY = jax.random.key(0)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def conv(channels_in, channels_out, size=3):
    return size**2 * channels_in * channels_out + channels_out


def dense(channels_in, channels_out):
    return (channels_in + 1) * channels_out


def steered_block(channels_in, channels_out, condition):
    """Two norms steered by a dense layer each (or learned, without a condition), two convs."""

    def norm(channels):
        return dense(condition, 2 * channels) if condition else 2 * channels

    shortcut = conv(channels_in, channels_out, 1) if channels_in != channels_out else 0
    convs = conv(channels_in, channels_out) + conv(channels_out, channels_out)
    return norm(channels_in) + norm(channels_out) + convs + shortcut


def decoder(sizes, out_channels):
    label = sum(sizes.class_factors or (sizes.num_classes,)) * sizes.class_dim
    digits = len(sizes.class_factors) or bool(sizes.num_classes)
    condition = sizes.latent_dim + digits * sizes.class_dim
    channels = [sizes.base_channels * m for m in sizes.channel_multipliers]
    total = label + dense(condition, sizes.grid_size**2 * channels[-1])
    for wide, narrow in zip(channels[:0:-1], channels[-2::-1], strict=True):
        total += steered_block(wide, narrow, condition)
    last = conv(channels[0], out_channels * sizes.patch_size**2)
    return total + 2 * channels[0] + last


def unconditional(sizes):
    return dataclasses.replace(sizes, num_classes=0, class_factors=())


WIDE = {"image_size": 64, "patch_size": 1, "channel_multipliers": (1, 2, 4, 4)}


@pytest.mark.parametrize(
    "change", [lambda s: s, unconditional, lambda s: dataclasses.replace(s, **WIDE)]
)
def test_parameter_counts(change):
    sizes = change(GAN_SIZES)
    params = jax.eval_shape(lambda: init_gan(sizes, KEY))
    assert count(params[GENERATOR]) == decoder(sizes, 3)
    widths = [sizes.discriminator_channels * m for m in sizes.channel_multipliers]
    total = conv(3 * sizes.patch_size**2, widths[0])
    for narrow, wide in itertools.pairwise(widths):
        total += conv(narrow, narrow) + conv(narrow, wide) + narrow * wide
    total += conv(widths[-1] + 1, widths[-1]) + dense(sizes.grid_size**2 * widths[-1], widths[-1])
    total += dense(widths[-1], 1) + sum(sizes.class_factors) * widths[-1]
    assert count(params[DISCRIMINATOR]) == total
    sizes = change(VAE_SIZES)
    params = jax.eval_shape(lambda: init_vae(sizes, KEY))
    assert count(params["decoder"]) == decoder(sizes, 6)
    channels = [sizes.base_channels * m for m in sizes.channel_multipliers]
    total = conv(3 * sizes.patch_size**2, channels[0]) + sum(sizes.class_factors) * sizes.class_dim
    for narrow, wide in itertools.pairwise(channels):
        total += steered_block(narrow, wide, len(sizes.class_factors) * sizes.class_dim)
    total += 2 * channels[-1] + dense(sizes.grid_size**2 * channels[-1], 2 * sizes.latent_dim)
    assert count(params["encoder"]) == total


def batch(size=5, num_classes=101):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, num_classes, size), jnp.int32)


def filled(init):
    """Parameters of some size; to compile their own initialisation takes long."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        deviation = 1 / math.sqrt(max(math.prod(leaf.shape[:-1]), 2))
        return jnp.asarray(rng.normal(0.1, deviation, leaf.shape), leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(init))


@pytest.fixture(scope="module")
def gan():
    images, labels = batch()
    return filled(lambda: init_gan(GAN_SIZES, KEY)), images / 127.5 - 1, labels


@pytest.fixture(scope="module")
def vae():
    return filled(lambda: init_vae(VAE_SIZES, KEY)), *batch()


LATENTS = np.asarray(jax.random.normal(KEY, (5, 16)))


@jax.jit
def make(params, latents, labels):
    return Generator(GAN_SIZES).apply({"params": params[GENERATOR]}, latents, labels)


@jax.jit
def judge(params, images, labels):
    return build_discriminator(GAN_SIZES).apply({"params": params[DISCRIMINATOR]}, images, labels)


@jax.jit
def run_vae(params, images, noise, labels):
    return VAE(VAE_SIZES).apply({"params": params}, images / 127.5 - 1, noise, labels)


def test_shapes_and_ranges(gan, vae):
    params, images, labels = gan
    made = make(params, LATENTS, labels)
    assert made.shape == (5, 32, 32, 3)
    assert float(jnp.abs(made).max()) <= 1
    assert not np.allclose(made[0], make(params, LATENTS, labels[::-1])[0])
    assert judge(params, images, labels).shape == (5, 1, 1)
    params, images, labels = vae
    output = run_vae(params, images, LATENTS, labels)
    assert output.means.shape == output.log_scales.shape == (5, 32, 32, 3)
    assert output.latent_means.shape == output.latent_log_stds.shape == (5, 16)


def test_no_picture_depends_on_the_others_of_a_batch(gan, vae):
    changed = LATENTS + np.arange(5)[:, None] * (np.arange(5) > 1)[:, None]
    for run, params, labels in (
        (make, gan[0], gan[2]),
        (lambda params, noise, labels: run_vae(params, vae[1], noise, labels)[0], vae[0], vae[2]),
    ):
        whole = np.asarray(run(params, LATENTS, labels))
        others = np.asarray(run(params, changed, labels))
        np.testing.assert_allclose(others[:2], whole[:2], atol=1e-6)
        assert np.abs(others[2:] - whole[2:]).max() > 1e-2


log_prob = jax.jit(discretized_logistic)


@pytest.mark.parametrize("log_scale", [-9.0, -5.0, -2.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-1.4, -1.0, -0.2503, 0.0, 0.77, 1.0, 2.0])
def test_256_bytes_have_probability_one(mean, log_scale):
    values = jnp.arange(256, dtype=jnp.uint8)
    log_probs = log_prob(values, jnp.full(256, mean), jnp.full(256, log_scale))
    assert np.isfinite(log_probs).all()
    assert float(jnp.exp(log_probs).sum()) == pytest.approx(1, abs=2e-4)
    scale = math.exp(max(log_scale, MIN_LOG_SCALE))
    edges = (np.arange(1, 256) - 0.5) / 127.5 - 1
    cumulative = np.concatenate([[0], expit((edges - mean) / scale), [1]])
    np.testing.assert_allclose(np.exp(log_probs), np.diff(cumulative), atol=2e-4)


def test_gradients_of_the_likelihood_are_finite_far_away():
    def cost(mean, log_scale):
        values = jnp.uint8([0, 1, 128, 254, 255])
        return log_prob(values, jnp.full(5, mean), jnp.full(5, log_scale)).sum()

    slopes = jax.jit(jax.grad(cost, (0, 1)))
    for mean in (-30.0, 0.0, 30.0):
        for log_scale in (-6.9, 0.0, 6.0):
            assert np.isfinite(slopes(mean, log_scale)).all()


def test_the_bound_is_that_of_numpy(vae):
    params, images, labels = vae
    output = run_vae(params, images, LATENTS, labels)
    means, log_scales, mean, log_std = (np.asarray(part, np.float64) for part in output)
    scales = np.exp(np.maximum(log_scales, MIN_LOG_SCALE))
    values = np.asarray(images, np.float64)
    upper = np.where(values == 255, 1, expit(((values + 0.5) / 127.5 - 1 - means) / scales))
    lower = np.where(values == 0, 0, expit(((values - 0.5) / 127.5 - 1 - means) / scales))
    expected_pixels = -np.log(upper - lower).sum(axis=(1, 2, 3))
    expected_kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum(axis=1)

    @jax.jit
    def measured(params, images, labels):
        parts = negative_bound(VAE_SIZES, params, images, labels, jnp.asarray(LATENTS))
        heavy = dataclasses.replace(VAE_SIZES, kl_weight=3.0)
        return parts, [vae_loss(s, params, images, labels, KEY) for s in (VAE_SIZES, heavy)]

    (pixels, divergence), ((loss, metrics), (other, same)) = measured(params, images, labels)
    np.testing.assert_allclose(pixels, expected_pixels, rtol=1e-5)
    np.testing.assert_allclose(divergence, expected_kl, rtol=1e-4)
    dims, pixels, divergence = 32 * 32 * 3, expected_pixels.mean(), expected_kl.mean()
    assert float(loss) == pytest.approx((pixels + divergence) / dims, rel=1e-5)
    assert float(other) == pytest.approx((pixels + 3 * divergence) / dims, rel=1e-5)
    assert float(metrics["bits_per_dim"]) == pytest.approx(float(loss) / math.log(2), rel=1e-5)
    assert float(same["bits_per_dim"]) == pytest.approx(float(metrics["bits_per_dim"]), rel=1e-6)


@jax.jit
def play(params, images, labels):
    """What is trained, with one picture of five penalised, and its gradient."""
    sizes = dataclasses.replace(GAN_SIZES, r1_share=0.2, r1_weight=1.0)

    def loss(params):
        return gan_loss(sizes, params, images, labels, KEY)

    return jax.value_and_grad(loss, has_aux=True)(params)


@jax.jit
def play_apart(params, images, made, labels):
    """Each player's part by itself, and its gradient, the other a constant."""

    def fooled(own):
        pictures = make({GENERATOR: own}, LATENTS, labels)
        return -judge(params, pictures, labels).mean()

    def against(own):
        real, fake = (judge({DISCRIMINATOR: own}, x, labels) for x in (images, made))
        penalty = jnp.sum(jax.grad(lambda x: judge({DISCRIMINATOR: own}, x, labels[:1]).sum())(
            images[:1]
        ) ** 2)  # fmt: skip
        hinge = jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()
        return hinge + 0.5 * penalty, penalty

    return (
        jax.value_and_grad(fooled)(params[GENERATOR]),
        jax.value_and_grad(against, has_aux=True)(params[DISCRIMINATOR]),
    )


def test_gradients_of_one_player_do_not_touch_the_other(gan):
    params, images, labels = gan
    (loss, metrics), gradient = play(params, images, labels)
    made = make(params, LATENTS, labels)
    apart = play_apart(params, images, made, labels)
    (fooled, of_generator), ((against, penalty), of_discriminator) = apart
    assert float(loss) == pytest.approx(float(fooled + against), rel=1e-5)
    assert float(metrics["r1_penalty"]) == pytest.approx(float(penalty), rel=1e-4)
    assert set(gradient) == {GENERATOR, DISCRIMINATOR}
    for name, expected in ((GENERATOR, of_generator), (DISCRIMINATOR, of_discriminator)):
        pairs = zip(jax.tree.leaves(gradient[name]), jax.tree.leaves(expected), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-3


def test_what_players_minimise_is_that_of_numpy(gan):
    params, images, labels = gan
    (_, metrics), _ = play(params, images, labels)
    made = make(params, LATENTS, labels)
    real, fake = (np.asarray(judge(params, pictures, labels)) for pictures in (images, made))
    against = np.maximum(1 - real, 0).mean() + np.maximum(1 + fake, 0).mean()
    assert float(metrics["discriminator_loss"]) == pytest.approx(float(against), rel=1e-5)
    assert float(metrics["generator_loss"]) == pytest.approx(float(-fake.mean()), rel=1e-4)
    assert float(metrics["real_logits"]) == pytest.approx(float(real.mean()), rel=1e-4)
    right = 0.5 * ((real > 0).mean() + (fake < 0).mean())
    assert float(metrics["discriminator_accuracy"]) == pytest.approx(float(right))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (GANConfig, {"image_size": 48, "channel_multipliers": (1,) * 6}, "multiple of 32"),
        (GANConfig, {"channel_multipliers": ()}, "channel_multipliers"),
        (GANConfig, {"latent_dim": 0}, "latent_dim: expected at least 1"),
        (GANConfig, {"num_classes": 10, "class_factors": (3, 3)}, "class_factors"),
        (GANConfig, {"class_factors": (3, 3)}, "class_factors"),
        (GANConfig, {"r1_share": 0.0}, "r1_share"),
        (GANConfig, {"r1_weight": math.nan}, "r1_weight"),
        (GANConfig, {"stddev_group_size": 1}, "stddev_group_size"),
        (VAEConfig, {"kl_weight": -1.0}, "kl_weight"),
        (VAEConfig, {"num_classes": -1}, "num_classes"),
    ],
)
def test_sizes_that_no_network_has(kind, changes, words):
    with pytest.raises(UserError, match=words):
        kind(**changes)

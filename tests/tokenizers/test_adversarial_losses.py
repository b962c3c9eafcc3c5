import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.adversarial_losses import (
    adaptive_weight,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    lecam_penalty,
    r1_penalty,
)
from igpt_jax.tokenizers.discriminators import (
    PatchDiscriminatorConfig,
    StyleDiscriminatorConfig,
    build_discriminator,
)

KINDS = ["hinge", "non_saturating", "vanilla"]
GENERATOR = np.random.default_rng(0)
REAL, FAKE = GENERATOR.normal(0.5, 2.0, (2, 3, 2, 4))
EXTREME = np.array([-1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4]).reshape(7, 1, 1)


def as_logits(values, dtype=jnp.float32):
    return jnp.asarray(values, dtype)


def numpy_discriminator_loss(kind, real, fake):
    if kind == "hinge":
        return np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    # -log sigmoid(real) - log(1 - sigmoid(fake)), by way of log(exp(0) + exp(x))
    both = np.logaddexp(0, -real).mean() + np.logaddexp(0, fake).mean()
    return both / 2 if kind == "vanilla" else both


def numpy_generator_loss(kind, fake):
    return np.logaddexp(0, -fake).mean() if kind == "non_saturating" else -fake.mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("real", "fake"),
    [(REAL, FAKE), (EXTREME, EXTREME[::-1]), (EXTREME, EXTREME), (EXTREME[3:], EXTREME[:4])],
)
def test_losses_against_numpy(kind, real, fake):
    both = discriminator_loss(kind, as_logits(real), as_logits(fake))
    np.testing.assert_allclose(both, numpy_discriminator_loss(kind, real, fake), rtol=1e-6)
    made = generator_loss(kind, as_logits(fake))
    np.testing.assert_allclose(made, numpy_generator_loss(kind, fake), rtol=1e-6)
    assert both.shape == made.shape == ()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_on_single_logits_tell_real_from_fake(kind):
    def loss(real, fake):
        return discriminator_loss(kind, jnp.full((1, 1, 1), real), jnp.full((1, 1, 1), fake))

    assert loss(3.0, -3.0) < 0.1
    assert loss(3.0, 3.0) == loss(-3.0, -3.0) > 1.5
    assert loss(-3.0, 3.0) > loss(3.0, 3.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("logits", [np.zeros((2, 2, 2)), 0.3 * REAL, np.full((2, 1, 1), 0.9)])
def test_descent_moves_logits_the_right_way(kind, logits):
    real, fake = as_logits(logits), as_logits(-logits)
    by_real, by_fake = jax.grad(discriminator_loss, (1, 2))(kind, real, fake)
    assert np.all((by_real < 0) == (real < 1))
    assert np.all((by_fake > 0) == (fake > -1))
    assert np.all(jax.grad(generator_loss, 1)(kind, fake) < 0)


def test_hinge_gives_no_gradient_beyond_the_margin():
    real, fake = jnp.full((1, 1, 1), 1.5), jnp.full((1, 1, 1), -1.5)
    by_real, by_fake = jax.grad(discriminator_loss, (1, 2))("hinge", real, fake)
    assert by_real == by_fake == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_extreme_logits_are_finite(kind):
    logits = as_logits(EXTREME)
    gradients = jax.grad(discriminator_loss, (1, 2))(kind, logits, logits)
    gradients = (*gradients, jax.grad(generator_loss, 1)(kind, logits))
    assert np.all(np.isfinite(gradients))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_logits_are_averaged_in_float32(kind):
    # In bfloat16 a mean of these would be 1 + 1/256 rounded to 1.
    fake = jnp.concatenate([jnp.ones((127, 1, 1)), jnp.full((1, 1, 1), 1.5)]).astype(jnp.bfloat16)
    for loss in (discriminator_loss(kind, fake, fake), generator_loss(kind, fake)):
        assert loss.dtype == jnp.float32
    exact = numpy_generator_loss(kind, np.asarray(fake, np.float64))
    np.testing.assert_allclose(generator_loss(kind, fake), exact, rtol=1e-6)


def test_an_unknown_kind():
    logits = as_logits(REAL)
    # Unwrapped, since the type checker of the tests would speak first.
    with pytest.raises(UserError, match=r"hinge, non_saturating, vanilla, got wgan"):
        inspect.unwrap(discriminator_loss)("wgan", logits, logits)
    with pytest.raises(UserError, match="got wgan"):
        inspect.unwrap(generator_loss)("wgan", logits)


def test_accuracy_counts_signs():
    def accuracy(real, fake):
        return discriminator_accuracy(*(as_logits(x).reshape(1, 2, 2) for x in (real, fake)))

    assert accuracy([1, 2, 3, 4], [-1, -2, -3, -4]) == 1
    assert accuracy([-1, -2, -3, -4], [1, 2, 3, 4]) == 0
    assert accuracy([1, 2, 3, -4], [-1, 2, 3, 4]) == 0.5  # 3/4 and 1/4
    assert accuracy([1, -1, 0, 0], [-1, -1, -1, 0]) == 0.5  # 1/4 and 3/4: zero is wrong


def test_r1_of_a_linear_discriminator_is_its_squared_weights():
    weights = jnp.asarray(GENERATOR.standard_normal((4, 6, 3)), jnp.float32)
    images = jnp.asarray(GENERATOR.standard_normal((5, 4, 6, 3)), jnp.float32)

    def discriminate(pixels):
        return jnp.einsum("bhwc,hwc->b", pixels, weights)[:, None, None]

    expected = np.sum(np.asarray(weights, np.float64) ** 2)
    np.testing.assert_allclose(r1_penalty(discriminate, images), expected, rtol=1e-5)


def test_r1_sums_an_image_over_its_patches():
    images = jnp.asarray(GENERATOR.standard_normal((3, 4, 4, 3)), jnp.float32)

    def pixel_patches(pixels):
        return 2.0 * pixels[..., 0]

    # Each of 16 logits has gradient 2 at one value of its own; the batch is a mean.
    np.testing.assert_allclose(r1_penalty(pixel_patches, images), 16 * 2.0**2, rtol=1e-6)


def test_r1_of_a_quadratic_against_finite_differences():
    images = GENERATOR.uniform(-1, 1, (2, 2, 3, 3))
    kernel = GENERATOR.standard_normal((2, 3, 3, 4))

    def discriminate(pixels):
        projected = jnp.einsum("bhwc,hwcd->bd", pixels, jnp.asarray(kernel, jnp.float32))
        return jnp.sum(projected**2, axis=-1)[:, None, None]

    def numpy_discriminate(pixels):
        return np.sum(np.einsum("bhwc,hwcd->bd", pixels, kernel) ** 2, axis=-1)

    step = 1e-5
    squared_norms = np.zeros(2)
    for place in np.ndindex(2, 3, 3):
        moved = np.zeros((2, 3, 3))
        moved[place] = step
        rise = numpy_discriminate(images + moved) - numpy_discriminate(images - moved)
        squared_norms += (rise / (2 * step)) ** 2
    result = r1_penalty(discriminate, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(result, squared_norms.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        PatchDiscriminatorConfig(4, 1, "none"),
        pytest.param(PatchDiscriminatorConfig(4, 2), marks=pytest.mark.slow),
        pytest.param(StyleDiscriminatorConfig(1, 4), marks=pytest.mark.slow),
    ],
    ids=["patch_plain", "patch", "style"],
)
def test_r1_can_be_minimised(config):
    model = build_discriminator(config)
    images = jnp.asarray(GENERATOR.uniform(-1, 1, (3, 12, 12, 3)), jnp.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * GENERATOR.standard_normal(leaf.shape), jnp.float32), abstract
    )

    @jax.jit
    def penalty_and_gradient(variables):
        return jax.value_and_grad(
            lambda variables: r1_penalty(lambda pixels: model.apply(variables, pixels), images)
        )(variables)

    before, gradient = penalty_and_gradient(variables)
    squared_norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
    rate = 0.1 * before / squared_norm  # to first order a tenth less
    after, _ = penalty_and_gradient(jax.tree.map(lambda x, g: x - rate * g, variables, gradient))
    assert 0.8 * before < after < 0.97 * before


def test_lecam_against_numpy():
    real_average, fake_average = 0.7, -0.4
    expected = (
        np.mean(np.maximum(REAL - fake_average, 0) ** 2)
        + np.mean(np.maximum(real_average - FAKE, 0) ** 2)
    )  # fmt: skip
    averages = jnp.float32(real_average), jnp.float32(fake_average)
    result = lecam_penalty(as_logits(REAL), as_logits(FAKE), *averages)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_lecam_pulls_towards_the_other_average_and_leaves_the_averages():
    real, fake = jnp.full((1, 1, 1), 2.0), jnp.full((1, 1, 1), -2.0)
    averages = jnp.float32(1.0), jnp.float32(-1.0)
    gradients = jax.grad(lecam_penalty, (0, 1, 2, 3))(real, fake, *averages)
    np.testing.assert_allclose([float(x.sum()) for x in gradients], [6.0, -6.0, 0.0, 0.0])
    assert lecam_penalty(fake, real, *averages) == 0


def test_adaptive_weight_is_the_ratio_of_norms():
    first, second = GENERATOR.standard_normal((2, 3, 3, 4, 5))
    expected = np.linalg.norm(first) / (np.linalg.norm(second) + 1e-4)
    result = jax.jit(adaptive_weight)(as_logits(first), as_logits(second))
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    other = adaptive_weight(as_logits(first), as_logits(second), epsilon=2.0, max_weight=0.5)
    ratio = np.linalg.norm(first) / (np.linalg.norm(second) + 2.0)
    np.testing.assert_allclose(other, min(ratio, 0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("reconstruction", "adversarial", "expected"),
    [(1.0, 0.0, 1e4), (3.0, 0.0, 1e4), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (2.0, 4.0, 0.5)],
)
def test_adaptive_weight_at_the_ends(reconstruction, adversarial, expected):
    gradients = (jnp.full((4,), x) for x in (reconstruction, adversarial))
    assert adaptive_weight(*gradients) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_no_gradient_flows_through_the_adaptive_weight(size):
    kernels = jnp.full((2, 2), size), jnp.ones((2, 2))
    for gradient in jax.grad(adaptive_weight, (0, 1))(*kernels):
        np.testing.assert_array_equal(gradient, 0.0)

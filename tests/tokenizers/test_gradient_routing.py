"""Who gets a gradient from what: every quantizer, every term, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.tokenizers.quantizers import (
    BinaryQuantizerConfig,
    FiniteScalarQuantizerConfig,
    GumbelQuantizerConfig,
    MovingAverageQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
    build_quantizer,
)

N, D, V = 24, 3, 6
GENERATOR = np.random.default_rng(0)
LATENTS = jnp.asarray(GENERATOR.normal(size=(2, 4, 3, D)), jnp.float32)
CODEBOOK = GENERATOR.normal(size=(V, D)).astype(np.float32)
PULL = jnp.asarray(GENERATOR.normal(size=LATENTS.shape), jnp.float32)  # the decoder's gradient
KEY = jax.random.key(0)


def parameters(module):
    drawn = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, KEY, LATENTS).get("params", {})

    def draw(path, leaf):
        values = drawn.normal(size=leaf.shape)
        if "share" in path[-1].key:
            values = np.full(leaf.shape, 1 / V)
        if "running_sum" in path[-1].key:
            values = values / V
        if "temperature" in path[-1].key:
            values = np.array(0.7)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def gradients(config, term, *, training=False, params=None):
    """Gradients of one term, or of the decoder's pull, by the parameters and by the latents."""
    module = build_quantizer(config)
    params = parameters(module) if params is None else params

    def loss(params, latents):
        result = module.apply(
            {"params": params}, latents, deterministic=not training, rngs={"quantizer": KEY}
        )
        return jnp.sum(result.quantized * PULL) if term == "decode" else result.losses[term]

    by_params, by_latents = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, LATENTS)
    return params, by_params, np.asarray(by_latents)


def is_zero(tree):
    return all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(tree))


def nearest(points, codes):
    return ((points[..., None, :] - codes) ** 2).sum(-1).argmin(-1)


def summed_by_code(values, tokens, size=V):
    out = np.zeros((size, values.shape[-1]))
    np.add.at(out, tokens.reshape(-1), values.reshape(-1, values.shape[-1]))
    return out


VQ = VectorQuantizerConfig(V, D, l2_normalize=False)


def test_vq_decoder_moves_the_encoder_only():
    _, codebook, latents = gradients(VQ, "decode")
    assert is_zero(codebook)
    np.testing.assert_allclose(latents, PULL, rtol=1e-6)


def test_vq_codebook_loss_moves_the_codes_only():
    params, codebook, latents = gradients(VQ, "codebook")
    codes, points = np.asarray(params["codebook"]), np.asarray(LATENTS)
    tokens = nearest(points, codes)
    expected = summed_by_code(2 * (codes[tokens] - points) / points.size, tokens)
    np.testing.assert_allclose(codebook["codebook"], expected, atol=1e-6)
    assert is_zero(latents)


def test_vq_commitment_loss_moves_the_encoder_only():
    params, codebook, latents = gradients(VQ, "commitment")
    codes, points = np.asarray(params["codebook"]), np.asarray(LATENTS)
    expected = 2 * (points - codes[nearest(points, codes)]) / points.size
    np.testing.assert_allclose(latents, expected, atol=1e-6)
    assert is_zero(codebook)


def test_l2_vq_sends_the_encoder_what_is_tangent_to_the_sphere():
    config = VectorQuantizerConfig(V, D)
    params, codebook, latents = gradients(config, "decode")
    assert is_zero(codebook)
    points = np.asarray(LATENTS, np.float64)
    norm = np.linalg.norm(points, axis=-1, keepdims=True)
    unit = points / norm
    radial = (np.asarray(PULL) * unit).sum(-1, keepdims=True)
    np.testing.assert_allclose(latents, (PULL - radial * unit) / norm, atol=1e-5)
    _, codebook, latents = gradients(config, "codebook")
    assert is_zero(latents)
    # Codes are compared by direction, so they are moved along the sphere, too.
    along = (np.asarray(codebook["codebook"]) * np.asarray(params["codebook"])).sum(-1)
    np.testing.assert_allclose(along, 0, atol=1e-6)
    assert not is_zero(codebook)


def test_rotation_turns_the_pull_by_the_angle_between_code_and_latent():
    config = VectorQuantizerConfig(V, D, l2_normalize=False, gradient="rotation")
    params, codebook, latents = gradients(config, "decode")
    assert is_zero(codebook)
    codes = np.asarray(params["codebook"], np.float64)
    for point, pull, got in zip(
        np.asarray(LATENTS, np.float64).reshape(N, D),
        np.asarray(PULL).reshape(N, D),
        latents.reshape(N, D),
        strict=True,
    ):
        code = codes[nearest(point, codes)]
        start, end = point / np.linalg.norm(point), code / np.linalg.norm(code)
        axis, cosine = np.cross(start, end), start @ end
        x, y, z = axis
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.eye(3) + cross + cross @ cross / (1 + cosine)  # Rodrigues
        scale = np.linalg.norm(code) / np.linalg.norm(point)
        np.testing.assert_allclose(rotation @ point * scale, code, atol=1e-9)
        np.testing.assert_allclose(got, scale * rotation.T @ pull, rtol=1e-3, atol=1e-4)


def test_vq_entropy_moves_both():
    config = VectorQuantizerConfig(V, D, l2_normalize=False, entropy_temperature=0.5)
    _, codebook, latents = gradients(config, "entropy")
    assert not is_zero(codebook)
    assert not is_zero(latents)


EMA = MovingAverageQuantizerConfig(V, D, decay=0.9, restart_below=0.0)


@pytest.mark.parametrize("term", ["decode", "commitment"])
def test_moving_averages_get_no_gradient_of_any_loss(term):
    params, statistics, latents = gradients(EMA, term, training=True)
    assert is_zero(statistics)
    codes = np.asarray(params["running_sum"]) * V
    tokens = nearest(np.asarray(LATENTS), codes)
    commitment = 2 * (np.asarray(LATENTS) - codes[tokens]) / LATENTS.size
    np.testing.assert_allclose(latents, PULL if term == "decode" else commitment, atol=1e-5)


def test_moving_averages_step_to_their_next_value():
    params, statistics, latents = gradients(EMA, "running", training=True)
    assert is_zero(latents)
    points = np.asarray(LATENTS).reshape(N, D)
    tokens = nearest(points, np.asarray(params["running_sum"]) * V)
    counts = np.bincount(tokens, minlength=V) / N
    share = np.asarray(params["running_share"])
    following = share - statistics["running_share"]
    np.testing.assert_allclose(following, 0.9 * share + 0.1 * counts, atol=1e-6)
    total = np.asarray(params["running_sum"])
    following = total - statistics["running_sum"]
    expected = 0.9 * total + 0.1 * summed_by_code(points / N, tokens)
    np.testing.assert_allclose(following, expected, atol=1e-6)


def test_fsq_sends_the_slope_of_its_bound():
    config = FiniteScalarQuantizerConfig((5, 7, 3))
    _, nothing, latents = gradients(config, "decode")
    assert nothing == {}
    levels = np.asarray(config.levels)
    slope = (levels - 1) * 1.001 / 2 * (1 - np.tanh(np.asarray(LATENTS)) ** 2)
    np.testing.assert_allclose(latents, PULL * slope / (levels // 2), rtol=1e-4, atol=1e-5)


def test_lfq_passes_straight_through_and_commits():
    config = BinaryQuantizerConfig(D)
    _, nothing, latents = gradients(config, "decode")
    assert nothing == {}
    np.testing.assert_allclose(latents, PULL, rtol=1e-6)
    _, _, latents = gradients(config, "commitment")
    points = np.asarray(LATENTS)
    np.testing.assert_allclose(latents, 2 * (points - np.sign(points)) / points.size, atol=1e-6)
    _, _, latents = gradients(config, "entropy")
    assert not is_zero(latents)


def test_bsq_sends_the_encoder_what_is_tangent_to_the_sphere():
    _, _, latents = gradients(BinaryQuantizerConfig(D, spherical=True), "decode")
    np.testing.assert_allclose((latents * LATENTS).sum(-1), 0, atol=1e-5)
    assert not is_zero(latents)


def test_residual_levels_learn_from_what_is_left_for_them():
    config = ResidualQuantizerConfig(3, VQ)
    params, levels, latents = gradients(config, "decode")
    assert is_zero(levels)
    np.testing.assert_allclose(latents, PULL, rtol=1e-6)
    _, levels, latents = gradients(config, "codebook")
    assert is_zero(latents)
    residual, committed = np.asarray(LATENTS), 0
    for index in range(3):
        codes = np.asarray(params[f"levels_{index}"]["codebook"])
        tokens = nearest(residual, codes)
        error = codes[tokens] - residual
        expected = summed_by_code(2 * error / residual.size, tokens) / 3
        np.testing.assert_allclose(levels[f"levels_{index}"]["codebook"], expected, atol=1e-6)
        committed = committed - 2 * error / residual.size / 3
        residual = residual - codes[tokens]
    _, levels, latents = gradients(config, "commitment")
    assert is_zero(levels)
    np.testing.assert_allclose(latents, committed, atol=1e-6)


GUMBEL = GumbelQuantizerConfig(V, D, min_temperature=0.1, temperature_decay=0.5)


def test_gumbel_sends_the_encoder_the_relaxed_gradient():
    _, moved, latents = gradients(GUMBEL, "decode", training=True)
    assert np.any(np.asarray(moved["codebook"]) != 0)
    assert np.any(np.asarray(moved["logits"]["kernel"]) != 0)
    assert np.any(latents != 0)
    assert is_zero(moved["running_temperature"])
    # Evaluation takes the most probable code: nothing comes through it to the encoder.
    _, moved, latents = gradients(GUMBEL, "decode")
    assert is_zero(latents)
    assert np.any(np.asarray(moved["codebook"]) != 0)


def test_gumbel_divergence_moves_the_logits_only():
    _, moved, latents = gradients(GUMBEL, "kl", training=True)
    assert is_zero(moved["codebook"])
    assert np.any(np.asarray(moved["logits"]["kernel"]) != 0)
    assert np.any(latents != 0)


def test_gumbel_temperature_falls_to_its_minimum():
    params, moved, _ = gradients(GUMBEL, "running", training=True)
    following = params["running_temperature"] - moved["running_temperature"]
    np.testing.assert_allclose(following, 0.35, rtol=1e-6)
    cold = {**params, "running_temperature": jnp.float32(0.12)}
    _, moved, _ = gradients(GUMBEL, "running", training=True, params=cold)
    np.testing.assert_allclose(0.12 - moved["running_temperature"], 0.1, rtol=1e-5)

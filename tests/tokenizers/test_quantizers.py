import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.codebook import start_quantizer
from igpt_jax.tokenizers.quantizers import (
    BinaryQuantizerConfig,
    FiniteScalarQuantizer,
    FiniteScalarQuantizerConfig,
    GumbelQuantizerConfig,
    MovingAverageQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
    build_quantizer,
)
from igpt_jax.tokenizers.quantizers.base import l2_normalized
from igpt_jax.tokenizers.quantizers.entropy import code_affinity, entropy_loss
from igpt_jax.tokenizers.quantizers.moving_average import scattered_rows

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
    np.testing.assert_allclose(result.losses["codebook"], loss, rtol=1e-5)
    np.testing.assert_allclose(result.losses["commitment"], loss, rtol=1e-5)
    looked_up = module.apply({"params": params}, result.tokens, method="lookup")
    np.testing.assert_allclose(looked_up, quantized, atol=1e-6)


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


EVERY_QUANTIZER = [
    VectorQuantizerConfig(16, 4, l2_normalize=False),
    VectorQuantizerConfig(16, 4),
    VectorQuantizerConfig(16, 4, gradient="rotation"),
    MovingAverageQuantizerConfig(16, 4),
    MovingAverageQuantizerConfig(16, 4, l2_normalize=True),
    FiniteScalarQuantizerConfig((3, 2, 2, 3)),
    BinaryQuantizerConfig(4),
    BinaryQuantizerConfig(4, spherical=True),
]


def name(config):
    return "-".join(str(value) for value in (type(config).__name__, *vars(config).values()))


def random_parameters(module):
    return jax.jit(module.init)(jax.random.key(3), LATENTS).get("params", {})


@pytest.mark.parametrize("config", EVERY_QUANTIZER, ids=name)
def test_codes_come_back_as_their_tokens(config):
    module = build_quantizer(config)
    variables = {"params": random_parameters(module)}
    tokens = jnp.arange(config.codebook_size)
    codes = module.apply(variables, tokens, method="lookup")
    assert codes.shape == (config.codebook_size, config.code_dim)
    assert len(np.unique(np.asarray(codes), axis=0)) == config.codebook_size
    if isinstance(config, FiniteScalarQuantizerConfig):
        codes = latents_of(module, codes)
    np.testing.assert_array_equal(module.apply(variables, codes).tokens, tokens)


def latents_of(module, codes):
    """Undoes the bound of FSQ, whose codes are not fixed points of it."""
    levels = np.asarray(module.config.levels)
    offset = np.where(levels % 2 == 0, 0.5, 0.0)
    half_range = (levels - 1) * (1 + module.epsilon) / 2
    inside = (np.asarray(codes) * (levels // 2) + offset) / half_range
    return jnp.asarray(np.arctanh(inside) - np.arctanh(offset / half_range), jnp.float32)


@pytest.mark.parametrize(
    "config",
    [
        *EVERY_QUANTIZER,
        ResidualQuantizerConfig(2, EVERY_QUANTIZER[0]),
        GumbelQuantizerConfig(16, 4),
    ],
    ids=name,
)
def test_what_is_decoded_in_training_is_what_the_tokens_say(config):
    module = build_quantizer(config)
    variables = {"params": random_parameters(module)}
    for deterministic in (True, False):
        result = module.apply(
            variables, LATENTS, deterministic=deterministic, rngs={"quantizer": KEY}
        )
        looked_up = module.apply(variables, result.tokens, method="lookup")
        np.testing.assert_allclose(result.quantized, looked_up, atol=1e-5)
        assert result.tokens.dtype == jnp.int32
        assert all(np.isfinite(term) for term in result.losses.values())
        if "running" in result.losses:
            assert result.losses["running"] == 0


@pytest.mark.parametrize(("spherical", "unit"), [(False, 1.0), (True, 0.5)])
def test_binary_tokens_are_the_bits_of_the_signs(spherical, unit):
    module = build_quantizer(BinaryQuantizerConfig(4, spherical))
    tokens = np.arange(16)
    bits = (tokens[:, None] // 2 ** np.arange(4)) % 2
    codes = module.apply({}, jnp.asarray(tokens), method="lookup")
    np.testing.assert_allclose(codes, (2 * bits - 1) * unit)
    latents = np.random.default_rng(0).uniform(0.1, 3, (16, 4)) * (2 * bits - 1)
    np.testing.assert_array_equal(module.apply({}, jnp.asarray(latents)).tokens, tokens)


def numpy_entropy_loss(probabilities):
    def entropy(p):
        return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)

    return entropy(probabilities).mean() - entropy(probabilities.mean(0))


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_entropy_loss_against_numpy():
    generator = np.random.default_rng(0)
    points, codes = generator.normal(size=(50, 3)), generator.normal(size=(7, 3))
    distance = ((points[:, None] - codes) ** 2).sum(-1)
    expected = numpy_entropy_loss(softmax(-distance / 0.3))
    affinity = code_affinity(jnp.asarray(points), jnp.asarray(codes), 0.3)
    np.testing.assert_allclose(entropy_loss(affinity), expected, rtol=1e-5)
    # Sure and equally used: minus the logarithm of the number of codes, the least there is.
    sure = jnp.eye(7) * 1e4
    np.testing.assert_allclose(entropy_loss(sure), -np.log(7), rtol=1e-6)
    np.testing.assert_allclose(entropy_loss(sure[:1].repeat(5, axis=0)), 0, atol=1e-6)


def test_entropy_of_codes_that_nobody_is_near_has_a_finite_gradient():
    points, codes = jnp.asarray([[0.0, 0.1]]), jnp.asarray([[0.0, 0.0], [50.0, 0.0]])
    gradient = jax.grad(lambda x: entropy_loss(code_affinity(x, codes, 0.01)))(points)
    assert np.all(np.isfinite(gradient))


def test_binary_entropy_is_that_of_independent_bits():
    points = np.random.default_rng(0).normal(size=(50, 3))
    each_bit = 1 / (1 + np.exp(-4 * points / 0.8))
    codes = (np.arange(8)[:, None] // 2 ** np.arange(3)) % 2
    joint = np.prod(np.where(codes, each_bit[:, None], 1 - each_bit[:, None]), axis=-1)
    module = build_quantizer(BinaryQuantizerConfig(3, temperature=0.8))
    got = module.apply({}, jnp.asarray(points)).losses["entropy"]
    np.testing.assert_allclose(got, numpy_entropy_loss(joint), rtol=1e-4)


def test_many_bits_are_counted_in_groups():
    points = jnp.asarray(np.random.default_rng(0).normal(size=(20, 13)))
    whole, first, last = (
        build_quantizer(BinaryQuantizerConfig(part.shape[-1])).apply({}, part).losses["entropy"]
        for part in (points, points[:, :10], points[:, 10:])
    )
    np.testing.assert_allclose(whole, first + last, rtol=1e-5)


def test_a_dead_code_starts_again_at_a_latent():
    config = MovingAverageQuantizerConfig(4, 2, decay=0.9, restart_below=0.1)
    module = build_quantizer(config)
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(30, 2)), jnp.float32)
    share = jnp.asarray([0.5, 0.47, 0.02, 0.01])  # the last two are far from all latents
    codes = jnp.asarray([[0.5, 0.5], [-0.5, -0.5], [90.0, 0.0], [0.0, 90.0]])
    params = {"running_share": share, "running_sum": codes * share[:, None]}

    def running(params):
        result = module.apply(
            {"params": params}, latents, deterministic=False, rngs={"quantizer": KEY}
        )
        return result.losses["running"]

    following = jax.tree.map(lambda value, step: value - step, params, jax.grad(running)(params))
    assert following["running_share"][2:].tolist() == pytest.approx([0.25, 0.25])
    moved = following["running_sum"] / following["running_share"][:, None]
    for code in np.asarray(moved[2:]):
        assert np.abs(np.asarray(latents) - code).sum(-1).min() < 1e-5
    assert np.abs(moved[:2]).max() < 2


def test_equal_and_dead_codes_do_not_compete():
    """Of codes that rounding alone tells apart the first is chosen; a dead one never is."""
    config = MovingAverageQuantizerConfig(5, 3, restart_below=0.1)
    generator = np.random.default_rng(0)
    twin = generator.normal(size=3)
    codes = np.stack([-twin, twin, twin * (1 + 1e-6), twin * (1 - 1e-6), generator.normal(size=3)])
    share = np.array([0.3, 0.3, 0.2, 0.2, 0.019])
    params = {"running_share": share, "running_sum": codes * share[:, None]}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    latents = twin * (1 + generator.normal(0, 3e-4, (500, 1)))
    latents = jnp.asarray(np.concatenate([latents, codes[4:]]), jnp.float32)
    tokens = np.asarray(build_quantizer(config).apply({"params": params}, latents).tokens)
    assert set(tokens[:500].tolist()) == {1}
    assert tokens[500] != 4


def test_rows_are_drawn_as_they_weigh_and_once():
    weights = jnp.asarray([0.0, 3.0, 0.0, 1.0, 0.5, 0.0])
    keys = jax.random.split(KEY, 4000)
    rows, found = jax.vmap(lambda key: scattered_rows(key, weights, 2))(keys)
    rows, found = np.asarray(rows), np.asarray(found)
    counts = np.bincount(rows.ravel(), minlength=6) / len(keys)
    np.testing.assert_allclose(counts, 2 * np.asarray(weights) / 4.5, atol=0.03)
    np.testing.assert_array_equal(found.sum(axis=1), [len(set(pair)) for pair in rows])
    assert 0.4 < rows[:, 0].mean() / rows[:, 1].mean() < 2.5  # no place of the codebook is apart
    _, found = scattered_rows(KEY, jnp.zeros(6), 2)
    assert not found.any()


def test_a_code_starts_again_only_where_latents_are_without_one():
    """Three kinds of latents, two of them exact: the dead codes leave these alone."""
    config = MovingAverageQuantizerConfig(8, 2, decay=0.9, restart_below=0.1)
    kinds = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], np.float32)
    codes = jnp.asarray([*kinds[:2], *np.full((6, 2), 50.0)], jnp.float32)
    params = {"running_share": jnp.full(8, 1 / 8), "running_sum": codes / 8}
    params["running_share"] = params["running_share"].at[2:].set(0.01)
    params["running_sum"] = codes * params["running_share"][:, None]
    latents = jnp.asarray(np.tile(kinds, (10, 1)))

    def running(params):
        return (
            build_quantizer(config)
            .apply({"params": params}, latents, deterministic=False, rngs={"quantizer": KEY})
            .losses["running"]
        )

    following = jax.tree.map(lambda value, step: value - step, params, jax.grad(running)(params))
    moved = following["running_sum"] / following["running_share"][:, None]
    restarted = np.isclose(following["running_share"][2:], 1 / 8)
    assert restarted.any()
    np.testing.assert_allclose(np.asarray(moved[2:])[restarted], kinds[[2] * restarted.sum()])


def test_more_residual_levels_come_closer():
    config = ResidualQuantizerConfig(4, VectorQuantizerConfig(16, 4, l2_normalize=False))
    module = build_quantizer(config)
    latents = jax.random.normal(KEY, (200, 4))
    params = start_quantizer(config, random_parameters(module), latents, KEY)
    tokens = module.apply({"params": params}, latents).tokens
    assert tokens.shape == (200, 4)
    errors = [
        float(
            jnp.mean(
                (module.apply({"params": params}, tokens[:, :k], method="lookup") - latents) ** 2
            )
        )
        for k in range(1, 5)
    ]
    assert all(after < 0.7 * before for before, after in itertools.pairwise(errors))


def test_gumbel_draws_by_its_logits():
    module = build_quantizer(GumbelQuantizerConfig(3, 4))
    params = random_parameters(module)
    latents = jnp.broadcast_to(LATENTS[0, 0, 0], (4_000, 4))
    logits = latents[0] @ params["logits"]["kernel"] + params["logits"]["bias"]
    drawn = module.apply(
        {"params": params}, latents, deterministic=False, rngs={"quantizer": KEY}
    ).tokens
    shares = np.bincount(drawn, minlength=3) / 4_000
    np.testing.assert_allclose(shares, softmax(np.asarray(logits)), atol=0.03)
    best = module.apply({"params": params}, latents[:1]).tokens
    assert best[0] == np.argmax(logits)


def test_configs_refuse_what_cannot_be():
    with pytest.raises(UserError, match="codebook_size"):
        VectorQuantizerConfig(codebook_size=1)
    with pytest.raises(UserError, match="entropy_temperature"):
        VectorQuantizerConfig(entropy_temperature=0.0)
    with pytest.raises(UserError, match="decay"):
        MovingAverageQuantizerConfig(decay=1.0)
    with pytest.raises(UserError, match="num_bits"):
        BinaryQuantizerConfig(31)
    with pytest.raises(UserError, match="temperature"):
        BinaryQuantizerConfig(3, temperature=0)
    with pytest.raises(UserError, match="without l2_normalize"):
        ResidualQuantizerConfig(2, VectorQuantizerConfig())
    with pytest.raises(UserError, match="min_temperature"):
        GumbelQuantizerConfig(temperature=0.01)
    for levels in ((), (8, 1)):
        with pytest.raises(UserError, match="levels"):
            FiniteScalarQuantizerConfig(levels)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sampler import CONFIG, params  # noqa: F401

from igpt_jax.errors import UserError
from igpt_jax.models.gpt import GPT
from igpt_jax.sampling.guidance import guidance_scales
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

LABELS = jnp.asarray([0, 3], jnp.int32)


def draw(params, config, negative=None):  # noqa: F811
    keys, rows = image_keys(0, np.arange(2)), config.rows(2, CONFIG.seq_len)
    return np.asarray(generate(GPT(CONFIG), params, keys, LABELS, rows, None, None, negative))


def test_schedules_by_hand():
    linear = guidance_scales("linear", 5.0, 5)
    np.testing.assert_allclose(linear, [1, 2, 3, 4, 5])
    cosine = guidance_scales("power_cosine", 4.0, 4, power=2.0)
    by_hand = [1 + 3 * (1 - np.cos(np.pi * (i / 4) ** 2)) / 2 for i in range(4)]
    np.testing.assert_allclose(cosine, by_hand, rtol=1e-6)
    inside = guidance_scales("constant", 3.0, 10, interval=(0.2, 0.5))
    np.testing.assert_array_equal(inside, [1, 1, 3, 3, 3, 1, 1, 1, 1, 1])
    assert linear.dtype == np.float32


def test_one_scale_a_token_is_one_scale_a_row(params):  # noqa: F811
    keys = image_keys(0, np.arange(2))
    plain = SamplingConfig(cfg_scale=3.0).rows(2)
    spread = plain.replace(cfg_scale=jnp.full((2, CONFIG.seq_len), 3.0))
    np.testing.assert_array_equal(
        generate(GPT(CONFIG), params, keys, LABELS, plain),
        generate(GPT(CONFIG), params, keys, LABELS, spread),
    )


def test_an_interval_guides_only_what_lies_in_it(params):  # noqa: F811
    none, all_ = draw(params, SamplingConfig()), draw(params, SamplingConfig(cfg_scale=6.0))
    outside = SamplingConfig(cfg_scale=6.0, cfg_interval=(0.0, 0.0))
    np.testing.assert_array_equal(draw(params, outside), none)
    first = draw(params, SamplingConfig(cfg_scale=6.0, cfg_interval=(0.0, 0.5)))
    half = CONFIG.seq_len // 2
    np.testing.assert_array_equal(first[:, :half], all_[:, :half])
    second = draw(params, SamplingConfig(cfg_scale=6.0, cfg_interval=(0.5, 1.0)))
    np.testing.assert_array_equal(second[:, :half], none[:, :half])
    assert (all_ != none).any()


def test_greedy_guidance_against_a_loop(params):  # noqa: F811
    """A schedule and a negative condition, each token from three whole forward passes."""
    negative = jnp.asarray([4, 1], jnp.int32)
    forward = jax.jit(GPT(CONFIG).apply)
    scales = guidance_scales("linear", 4.0, CONFIG.seq_len)
    tokens = jnp.zeros((2, CONFIG.seq_len), jnp.int32)
    for i, scale in enumerate(scales):
        c, n = (
            forward({"params": params}, tokens[:, :-1], labels)[:, i]
            for labels in (LABELS, negative)
        )
        tokens = tokens.at[:, i].set((n + scale * (c - n)).argmax(-1))
    config = SamplingConfig(temperature=0, cfg_scale=4.0, cfg_schedule="linear")
    np.testing.assert_array_equal(draw(params, config, negative), tokens)


def test_leading_away_from_itself_is_no_guidance(params):  # noqa: F811
    np.testing.assert_array_equal(
        draw(params, SamplingConfig(cfg_scale=5.0), LABELS), draw(params, SamplingConfig())
    )


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_intervals_are_shares(interval):
    with pytest.raises(UserError, match="cfg_interval"):
        SamplingConfig(cfg_interval=interval)

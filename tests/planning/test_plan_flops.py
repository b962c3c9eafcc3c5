"""Operations counted from what is written, against formulas of papers and by hand."""

import jax
import jax.numpy as jnp
import pytest

from igpt_jax.models.gpt import GPT
from igpt_jax.models.presets import llamagen
from igpt_jax.parameters import abstract_params
from igpt_jax.planning.flops import count_flops
from igpt_jax.sampling.sampler import SamplingConfig, generate


def test_products_and_loops():
    x = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    w = jax.ShapeDtypeStruct((5, 4, 4), jnp.float32)

    def deep(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    assert count_flops(deep, x, w) == 5 * 2 * 3 * 4 * 4
    # Backward there are two products for each.
    assert count_flops(jax.grad(lambda x, w: deep(x, w).sum(), (0, 1)), x, w) == 3 * 5 * 2 * 48


def test_the_longer_branch_of_a_condition():
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x)

    assert count_flops(either, x) == 2 * 8**3


def test_a_convolution_and_its_gradients():
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    w = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)

    def half(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    assert count_flops(half, x, w) == forward
    gradient = jax.grad(lambda x, w: half(x, w).sum(), (0, 1))
    # One more for the image and one for the kernel; the border differs.
    assert count_flops(gradient, x, w) == pytest.approx(3 * forward, rel=0.05)


@pytest.mark.parametrize("size", ["B", "3B"])
def test_llamagen_has_six_operations_a_parameter_and_attention(size):
    """Kaplan et al. 2020, table 1; attention as in PaLM (Chowdhery et al. 2022, appendix B)."""
    config = llamagen(size, embed_dropout=0.0, residual_dropout=0.0)
    gpt, batch = GPT(config), 2
    tokens = jax.ShapeDtypeStruct((batch, config.seq_len - 1), jnp.int32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    params = jax.eval_shape(gpt.init, jax.random.key(0), tokens, labels)["params"]
    counted = count_flops(
        jax.grad(lambda params, *inputs: gpt.apply({"params": params}, *inputs).sum()),
        params, tokens, labels,
    )  # fmt: skip
    layer = 4 * config.embed_dim**2 + 3 * config.embed_dim * config.hidden_dim
    matrices = config.num_layers * layer + config.vocab_size * config.embed_dim
    attention = 12 * config.num_layers * config.embed_dim * config.seq_len
    assert counted == pytest.approx(batch * config.seq_len * (6 * matrices + attention), rel=1e-3)


def test_drawing_takes_two_operations_a_parameter_and_token_twice_with_guidance():
    config = llamagen("B", embed_dropout=0.0, residual_dropout=0.0)
    gpt, batch = GPT(config), 2
    params = abstract_params(gpt, placement=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def draw(scale):
        def run(params, labels):
            keys = jax.random.split(jax.random.key(0), batch)
            return generate(gpt, params, keys, labels, SamplingConfig(cfg_scale=scale).rows(batch))

        return count_flops(run, params, labels)

    layer = 4 * config.embed_dim**2 + 3 * config.embed_dim * config.hidden_dim
    matrices = config.num_layers * layer + config.vocab_size * config.embed_dim
    products = 2 * batch * config.seq_len * matrices
    cache = 4 * batch * config.num_layers * config.embed_dim * config.seq_len**2
    assert products < draw(1.0) < products + cache
    assert draw(2.0) == pytest.approx(2 * draw(1.0))

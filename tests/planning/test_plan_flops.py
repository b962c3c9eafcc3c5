"""Operations counted from what is written, against formulas of papers and by hand."""

import jax
import jax.numpy as jnp
import pytest

from igpt_jax.models.flops import forward_flops, training_flops
from igpt_jax.models.gpt import GPT
from igpt_jax.models.presets import imagegpt, llamagen
from igpt_jax.parameters import abstract_params, generator_inputs
from igpt_jax.planning.flops import count_flops
from igpt_jax.sampling.sampler import SamplingConfig, generate
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.presets import llamagen_vq


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


def counted_of(config):
    """Operations of one example, forward and in training, of a GPT as it is written."""
    gpt = GPT(config)
    inputs = generator_inputs(gpt)
    params = jax.eval_shape(gpt.init, jax.random.key(0), *inputs)["params"]

    def loss(params, *inputs):
        return gpt.apply({"params": params}, *inputs).sum()

    return count_flops(loss, params, *inputs), count_flops(jax.grad(loss), params, *inputs)


@pytest.mark.parametrize(
    "config",
    [llamagen("B"), llamagen("L"), llamagen("3B"), llamagen("B", grid_shape=(24, 24)),
     imagegpt("S"), llamagen("B", remat="full")],
    ids=["B", "L", "3B", "B at 384 pixels", "iGPT-S", "B, remat"],
)  # fmt: skip
def test_what_is_written_is_what_the_config_says(config):
    """To the operation: embeddings are looked up, and each product has two in the backward pass.

    With remat the compiler may drop what is computed again, but it is written: a plan counts a
    model without.
    """
    forward, training = counted_of(config)
    assert forward == forward_flops(config)
    if config.remat == "none":
        assert training == training_flops(config)
    else:
        assert training > training_flops(config)


def test_what_remat_keeps_is_not_computed_again():
    """Of products in a block: all, all but attention's, none."""
    kept = [
        counted_of(llamagen("B", remat=remat)) for remat in ("none", "all_dots", "dots", "full")
    ]
    none, all_dots, dots, full = (training for _, training in kept)
    assert none == all_dots < dots < full
    assert len({forward for forward, _ in kept}) == 1


def test_the_projection_of_texts_is_left_out_of_what_the_config_says():
    """Two layers over 120 slots: less than 0.2 % of an XL."""
    config = llamagen("XL", num_classes=0, text_len=120, text_dim=2048)
    forward, training = counted_of(config)
    projection = 2 * config.text_len * config.embed_dim * (config.text_dim + config.embed_dim)
    assert forward == forward_flops(config) + projection
    assert training == training_flops(config) + 3 * projection
    assert projection < 0.002 * forward


def convolution(side, window, channels_in, channels):
    return 2 * side**2 * window**2 * channels_in * channels


def residual(side, channels_in, channels):
    shortcut = convolution(side, 1, channels_in, channels) if channels_in != channels else 0
    return sum(convolution(side, 3, c, channels) for c in (channels_in, channels)) + shortcut


def attention(side, channels):
    """Queries, keys, values and output; scores and the sum of values."""
    return 4 * convolution(side, 1, channels, channels) + 2 * 2 * side**4 * channels


def vq16():
    """Operations of LlamaGen's VQ-16 on 256 pixels, by its code: encoder, codes, decoder.

    Two residual blocks a level in the encoder, three in the decoder, attention behind each at the
    lowest, and in the middle; 8 channels a code.
    """
    channels, side, encoder = 128, 256, convolution(256, 3, 3, 128)
    for level, multiplier in enumerate((1, 1, 2, 2, 4)):
        for _ in range(2):
            encoder += residual(side, channels, 128 * multiplier)
            channels = 128 * multiplier
            encoder += attention(side, channels) if level == 4 else 0
        if level < 4:
            side //= 2
            encoder += convolution(side, 3, channels, channels)
    middle = 2 * residual(side, channels, channels) + attention(side, channels)
    encoder += middle + convolution(side, 3, channels, 256) + convolution(side, 1, 256, 8)
    decoder = convolution(side, 1, 8, 256) + convolution(side, 3, 256, channels) + middle
    for level, multiplier in enumerate((4, 2, 2, 1, 1)):
        for _ in range(3):
            decoder += residual(side, channels, 128 * multiplier)
            channels = 128 * multiplier
            decoder += attention(side, channels) if level == 0 else 0
        if level < 4:
            side *= 2
            decoder += convolution(side, 3, channels, channels)
    return encoder, 2 * 256 * 16_384 * 8, decoder + convolution(side, 3, channels, 3)


def test_vq16_has_the_operations_of_its_layers():
    """Training has three times as many, but for gradients of pictures and of distances to codes."""
    tokenizer = Autoencoder(llamagen_vq(16))
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    params = jax.eval_shape(tokenizer.init, jax.random.key(0), image)["params"]

    def run(method):
        return lambda params, inputs: tokenizer.apply({"params": params}, inputs, method=method)

    def loss(params, image):
        result = tokenizer.apply({"params": params}, image)
        return result.reconstruction.sum() + sum(jax.tree.leaves(result.losses))

    encoder, distances, decoder = vq16()
    assert count_flops(run("encode"), params, image) == encoder + distances
    assert count_flops(run("decode"), params, tokens) == decoder
    trained = 3 * (encoder + decoder) - convolution(256, 3, 3, 128) + distances
    assert count_flops(jax.grad(loss), params, image) == trained

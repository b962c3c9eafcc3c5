import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from small_autoencoder import SMALL, abstract_variables, random_params, small_autoencoder

from igpt_jax.data.cards import CardsConfig, card_at, draw_card
from igpt_jax.errors import UserError
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.quantizers import FiniteScalarQuantizerConfig, VectorQuantizerConfig
from igpt_jax.tokenizers.video import CausalConv, inflate_params

KEY = jax.random.key(0)
VIDEOS = jax.random.uniform(KEY, (2, 9, 16, 16, 3), minval=-1, maxval=1)
GRID = 4 * 4
IMAGE_MODEL = small_autoencoder(attention=True)
# Two levels halve time once on the way down, and once in a layer of its own.
MODEL = small_autoencoder(attention=True, num_frames=9, temporal_downsample=4)

IMAGE_LAYERS = {
    "encoder": {
        "conv_in": (3, 3, 12, 8),
        "level_0_res_0": {
            "norm_0": (8,), "conv_0": (3, 3, 8, 8), "norm_1": (8,), "conv_1": (3, 3, 8, 8),
        },
        "level_0_downsample": {"conv": (3, 3, 8, 8)},
        "level_1_res_0": {
            "norm_0": (8,), "conv_0": (3, 3, 8, 16), "norm_1": (16,), "conv_1": (3, 3, 16, 16),
            "shortcut": (1, 1, 8, 16),
        },
        "norm_out": (16,),
        "conv_out": (3, 3, 16, 8),
    },
    "quant_conv": (1, 1, 8, 2),
    "post_quant_conv": (1, 1, 2, 8),
    "decoder": {
        "conv_in": (3, 3, 8, 16),
        "level_1_res_0": {
            "norm_0": (16,), "conv_0": (3, 3, 16, 16), "norm_1": (16,), "conv_1": (3, 3, 16, 16),
        },
        "level_1_upsample": {"conv": (3, 3, 16, 16)},
        "level_0_res_0": {
            "norm_0": (16,), "conv_0": (3, 3, 16, 8), "norm_1": (8,), "conv_1": (3, 3, 8, 8),
            "shortcut": (1, 1, 16, 8),
        },
        "norm_out": (8,),
        "conv_out": (3, 3, 8, 12),
    },
}  # fmt: skip
ATTENTION = {
    "level_1_attention_0": {
        "norm": (16,), **dict.fromkeys(("query", "key", "value", "out"), (1, 1, 16, 16)),
    },
}  # fmt: skip
FULL_LAYERS = IMAGE_LAYERS | {
    side: IMAGE_LAYERS[side] | ATTENTION for side in ("encoder", "decoder")
}


def leaf_shapes(layers):
    """Kernel and bias of a convolution, scale and bias of a norm."""
    if isinstance(layers, dict):
        return {name: leaf_shapes(layer) for name, layer in layers.items()}
    return {"scale" if len(layers) == 1 else "kernel": layers, "bias": layers[-1:]}


def shapes_of(model):
    return jax.tree.map(lambda leaf: leaf.shape, abstract_variables(model)["params"])


def biased_params(model, seed=0):
    """No bias is zero, no scale is one: nothing that could be left out goes unnoticed."""
    generator = np.random.default_rng(seed + 1)
    params = random_params(model, seed)
    return jax.tree.map(lambda x: x + 0.1 * generator.standard_normal(x.shape, np.float32), params)


PARAMS = biased_params(MODEL)
VARIABLES = {"params": PARAMS}
apply = jax.jit(MODEL.apply, static_argnames="method")
decode = partial(apply, VARIABLES, method="decode")


def assert_same_until(start, after, before):
    """Frames from `start` on differ, each of them."""
    np.testing.assert_allclose(after[:, :start], before[:, :start], atol=1e-6)
    assert np.abs(after[:, start:] - before[:, start:]).max(axis=(0, 2, 3, 4)).min() > 1e-3


def last_frame(latent_frame, ratio=4):
    return latent_frame * ratio


def first_frame(latent_frame, ratio=4):
    return max(0, (latent_frame - 1) * ratio + 1)


@pytest.mark.parametrize("time_stride", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 5])
def test_causal_convolution_against_numpy(num_frames, time_stride):
    generator = np.random.default_rng(0)
    video = generator.standard_normal((2, num_frames, 5, 4, 3))
    kernel, bias = generator.standard_normal((3, 3, 3, 3, 2)), generator.standard_normal(2)
    padded = np.concatenate([video[:, :1], video[:, :1], video], axis=1)
    padded = np.pad(padded, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3, 3), axis=(1, 2, 3))[:, ::time_stride]
    expected = np.einsum("bthwcijk,ijkcd->bthwd", windows, kernel) + bias
    layer = CausalConv(2, (3, 3), padding=[(1, 1), (1, 1)], time_stride=time_stride)
    params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    result = layer.apply({"params": params}, jnp.float32(video))
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_an_image_model_has_the_parameters_it_always_had():
    assert shapes_of(small_autoencoder()) == leaf_shapes(IMAGE_LAYERS)
    assert shapes_of(IMAGE_MODEL) == leaf_shapes(FULL_LAYERS)


def test_a_video_model_adds_time_to_kernels_that_see_more_than_a_pixel():
    def in_time(shape):
        return (3, *shape) if len(shape) == 4 and shape[0] > 1 else shape

    expected = jax.tree.map(
        in_time, leaf_shapes(FULL_LAYERS), is_leaf=lambda shape: isinstance(shape, tuple)
    )
    expected["encoder"]["time_downsample_0"] = {"kernel": (3, 1, 1, 16, 16), "bias": (16,)}
    expected["decoder"]["time_upsample_0"] = {"kernel": (3, 1, 1, 16, 16), "bias": (16,)}
    assert shapes_of(MODEL) == expected
    by_video = jax.eval_shape(MODEL.init, KEY, VIDEOS)
    assert jax.tree.map(lambda leaf: leaf.shape, by_video["params"]) == expected


@pytest.mark.parametrize(
    ("ratio", "num_frames", "channel_multipliers"),
    [(1, 4, (1, 1)), (2, 7, (1,)), (2, 7, (1, 1, 2)), (4, 9, (1, 1)), (4, 9, (1, 1, 2))],
)
def test_frame_counts(ratio, num_frames, channel_multipliers):
    model = small_autoencoder(
        channel_multipliers=channel_multipliers, num_frames=num_frames, temporal_downsample=ratio
    )
    variables = abstract_variables(model)
    rows, columns = model.grid_shape
    assert model.num_latent_frames == 1 + (num_frames - 1) // ratio
    for latent_frames in {2, model.num_latent_frames}:
        video = jax.ShapeDtypeStruct((1, 1 + (latent_frames - 1) * ratio, 16, 16, 3), jnp.float32)
        output = jax.eval_shape(model.apply, variables, video)
        assert output.latents.shape == output.quantized.shape
        assert output.latents.shape == (1, latent_frames, rows, columns, 2)
        assert output.tokens.shape == (1, latent_frames * rows * columns)
        assert output.reconstruction.shape == video.shape


def test_time_is_halved_at_the_last_levels_first():
    config = AutoencoderConfig(num_frames=17, temporal_downsample=4)
    assert (config.time_strides, config.num_time_layers) == ((1, 1, 2, 2), 0)
    config = dataclasses.replace(config, channel_multipliers=(1, 2))
    assert (config.time_strides, config.num_time_layers) == ((2,), 1)
    config = AutoencoderConfig()
    assert (config.time_strides, config.num_time_layers) == ((1, 1, 1, 1), 0)


def test_shapes_of_a_large_model_under_jit():
    config = AutoencoderConfig(
        image_size=128,
        channel_multipliers=(1, 2, 2, 4),
        num_frames=17,
        temporal_downsample=4,
        quantizer=VectorQuantizerConfig(1024, 8),
    )
    model = Autoencoder(config, dtype=jnp.bfloat16)
    variables = abstract_variables(model)
    video = jax.ShapeDtypeStruct((2, 17, 128, 128, 3), jnp.float32)
    output = jax.eval_shape(jax.jit(model.apply), variables, video)
    assert output.latents.shape == (2, 5, 16, 16, 8)
    assert output.tokens.shape == (2, 5 * 16 * 16)
    assert output.reconstruction.shape == video.shape
    assert output.reconstruction.dtype == output.latents.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def output():
    return apply(VARIABLES, VIDEOS)


def test_the_methods_agree(output):
    np.testing.assert_allclose(decode(output.tokens), output.reconstruction, atol=1e-5)


def test_no_latent_frame_sees_a_later_frame(output):
    for frame in range(VIDEOS.shape[1]):
        after = apply(VARIABLES, VIDEOS.at[:, frame].multiply(-1.0))
        own = math.ceil(frame / 4)
        assert last_frame(own) >= frame
        assert_same_until(own, after.latents, output.latents)
        start = first_frame(own)
        np.testing.assert_allclose(
            after.reconstruction[:, :start], output.reconstruction[:, :start], atol=1e-6
        )


def test_no_decoded_frame_sees_a_later_latent_frame(output):
    tokens = output.tokens
    for latent_frame in range(3):
        own = slice(latent_frame * GRID, (latent_frame + 1) * GRID)
        after = decode(tokens.at[:, own].set((tokens[:, own] + 5) % 12))
        assert_same_until(first_frame(latent_frame), after, decode(tokens))


def test_a_picture_is_the_first_frame_of_any_video(output):
    of_pictures = apply(VARIABLES, VIDEOS[:, 0])
    assert of_pictures.latents.shape == (2, 4, 4, 2)
    assert of_pictures.tokens.shape == (2, GRID)
    assert of_pictures.reconstruction.shape == (2, 16, 16, 3)
    assert len(np.unique(of_pictures.tokens)) > 4
    np.testing.assert_array_equal(output.tokens[:, :GRID], of_pictures.tokens)
    np.testing.assert_allclose(output.latents[:, 0], of_pictures.latents, atol=1e-5)
    np.testing.assert_allclose(output.reconstruction[:, 0], of_pictures.reconstruction, atol=1e-5)
    decoded = decode(of_pictures.tokens)
    np.testing.assert_allclose(decoded, of_pictures.reconstruction[:, None], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("latent_frames", [1, 2])
def test_a_shorter_video_is_the_start_of_a_longer_one(output, latent_frames):
    num_frames = last_frame(latent_frames - 1) + 1
    shorter = apply(VARIABLES, VIDEOS[:, :num_frames])
    np.testing.assert_array_equal(shorter.tokens, output.tokens[:, : latent_frames * GRID])
    np.testing.assert_allclose(
        shorter.reconstruction, output.reconstruction[:, :num_frames], atol=1e-5
    )


def test_every_frame_of_a_still_video_is_its_picture(output):
    still = apply(VARIABLES, jnp.broadcast_to(VIDEOS[:, :1], VIDEOS.shape))
    tokens = still.tokens.reshape(2, 3, GRID)
    np.testing.assert_array_equal(tokens - output.tokens[:, None, :GRID], 0)
    error = still.reconstruction - output.reconstruction[:, :1]
    np.testing.assert_allclose(error, 0, atol=2e-5)


def test_tokens_lie_frame_by_frame():
    tokens = jnp.zeros((2, 3 * GRID), jnp.int32)
    changed = decode(tokens.at[0, 2 * GRID + 5].set(11)) - decode(tokens)
    per_frame = np.abs(changed).max(axis=(0, 2, 3, 4))
    assert (per_frame > 1e-6).tolist() == [False] * 5 + [True] * 4


def test_inflated_parameters_treat_each_frame_as_the_image_model_does():
    image_params = biased_params(IMAGE_MODEL, seed=3)
    loaded = jax.tree.map(np.asarray, image_params)
    params = inflate_params(loaded, abstract_variables(MODEL)["params"])
    assert jax.tree.map(jnp.shape, params) == shapes_of(MODEL)
    image_model = jax.jit(IMAGE_MODEL.apply)
    expected = image_model({"params": image_params}, VIDEOS[:, 0])
    of_picture = apply({"params": params}, VIDEOS[:, 0])
    np.testing.assert_array_equal(of_picture.tokens, expected.tokens)
    np.testing.assert_allclose(of_picture.latents, expected.latents, atol=1e-5)
    np.testing.assert_allclose(of_picture.reconstruction, expected.reconstruction, atol=1e-5)
    # A video keeps its frames 0, 4 and 8, and shows each until the next is due.
    of_video = apply({"params": params}, VIDEOS)
    for latent_frame in range(3):
        expected = image_model({"params": image_params}, VIDEOS[:, last_frame(latent_frame)])
        shown = slice(first_frame(latent_frame), last_frame(latent_frame) + 1)
        np.testing.assert_allclose(of_video.latents[:, latent_frame], expected.latents, atol=1e-5)
        np.testing.assert_allclose(
            of_video.reconstruction[:, shown],
            np.broadcast_to(expected.reconstruction[:, None], VIDEOS[:, shown].shape),
            atol=2e-5,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_channels": 4}, r"decoder/conv_in/bias: expected shape \(16,\) .* got \(8,\)"),
        ({"attention": False}, "attention_0/.*got none"),
        ({"num_res_blocks": 2}, "encoder/level_0_res_1/.*expected shape none"),
    ],
)
def test_inflation_refuses_models_of_another_shape(changes, message):
    other = small_autoencoder(**{"attention": True} | changes)
    with pytest.raises(UserError, match=message):
        inflate_params(random_params(other), PARAMS)


@pytest.mark.slow
def test_every_time_slice_of_every_kernel_learns():
    # Biases are left out: those of attention keys, or before a norm of one channel, have no effect.
    def loss(params):
        return jnp.mean((MODEL.apply({"params": params}, VIDEOS).reconstruction - VIDEOS) ** 2)

    gradients, _ = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(PARAMS))
    for path, gradient in gradients:
        if path[-1].key != "bias":
            slices = gradient if gradient.ndim == 5 else gradient[None]
            largest = np.abs(slices).max(axis=tuple(range(1, slices.ndim)))
            assert np.all(largest > 1e-8), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("num_frames", "ratio", "message"),
    [
        (16, 4, "got 16 and 4; try 17"),
        (2, 4, "got 2 and 4; try 5"),
        (1, 4, "got 1 and 4; try 5"),
        (0, 1, "got 0 and 1; try 2"),
        (7, 3, "power of two, got 3"),
        (1, 0, "power of two, got 0"),
    ],
)
def test_config_refuses_lengths_that_do_not_divide(num_frames, ratio, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, num_frames=num_frames, temporal_downsample=ratio)


def test_lengths_that_make_no_whole_latent_frames_are_refused():
    with pytest.raises(UserError, match=r"1 \+ m \* 4 frames, 9 at most, got 8"):
        apply(VARIABLES, VIDEOS[:, :8])
    with pytest.raises(UserError, match="9 at most, got 13"):
        apply(VARIABLES, jnp.concatenate([VIDEOS, VIDEOS[:, :4]], axis=1))
    for num_tokens in (0, GRID + 1, 4 * GRID):
        with pytest.raises(UserError, match=f"1 to 3 frames of 16 tokens, got {num_tokens} tokens"):
            decode(jnp.zeros((1, num_tokens), jnp.int32))
    with pytest.raises(UserError, match="expected images"):
        jax.eval_shape(IMAGE_MODEL.init, KEY, VIDEOS)


def sliding_windows(split, num_videos, num_frames=5, size=16):
    """Windows that slide from one corner of a card to the opposite one."""
    generator = np.random.default_rng(0)
    videos = []
    for index in range(num_videos):
        card = draw_card(card_at(CardsConfig(image_size=32), index, split), 32)
        start = generator.choice([0, 32 - size], 2)
        path = np.round(np.linspace(start, 32 - size - start, num_frames)).astype(int)
        videos.append([card[y : y + size, x : x + size] for y, x in path])
    return np.asarray(videos, np.float32) / 127.5 - 1


def decibels(videos, reconstruction):
    error = np.mean((np.clip(reconstruction, -1, 1) - videos) ** 2, axis=(1, 2, 3, 4))
    return np.mean(10 * np.log10(4 / error))


@pytest.mark.slow
def test_it_learns_to_reconstruct_motion():
    model = small_autoencoder(
        base_channels=16,
        latent_channels=32,
        quantizer=FiniteScalarQuantizerConfig((8, 8, 8, 8)),
        num_frames=5,
        temporal_downsample=2,
    )
    videos, unseen = sliding_windows("train", 512), sliding_windows("validation", 64)
    optimizer = optax.adam(2e-3)
    params = random_params(model)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, batch):
        def loss(params):
            reconstruction = model.apply({"params": params}, batch).reconstruction
            return jnp.mean((reconstruction - batch) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    generator = np.random.default_rng(0)
    for _ in range(400):
        params, opt_state = step(params, opt_state, videos[generator.integers(0, 512, 8)])
    reconstruction = jax.jit(model.apply)({"params": params}, unseen).reconstruction
    # 14 dB with three seeds; the best still picture of each video, its mean frame, has 10.3 dB.
    still = np.broadcast_to(unseen.mean(axis=1, keepdims=True), unseen.shape)
    assert decibels(unseen, reconstruction) > decibels(unseen, still) + 2.5

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.tokenizers.autoencoder_blocks import (
    Downsample,
    ResBlock,
    SpatialAttention,
    Upsample,
    depth_to_space,
    space_to_depth,
)

KEY = jax.random.key(0)
FEATURES = jax.random.normal(KEY, (2, 4, 6, 8))


def test_space_to_depth_keeps_each_square_together():
    images = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(jnp.float32)
    patches = space_to_depth(images, 2)
    np.testing.assert_array_equal(patches[1, 0, 2].reshape(2, 2, 3), images[1, 0:2, 4:6])
    np.testing.assert_array_equal(depth_to_space(patches, 2), images)


def test_downsample_pads_right_and_bottom_only():
    module = Downsample()
    features = jnp.ones((1, 4, 4, 1))
    params = jax.tree.map(jnp.ones_like, module.init(KEY, features))
    # Ones in kernel and bias: each output counts the real pixels under it, plus one.
    result = module.apply(params, features)[0, :, :, 0]
    np.testing.assert_allclose(result, [[10, 7], [7, 5]])


def test_upsample_repeats_before_it_convolves():
    module = Upsample()
    features = jnp.asarray([1.0, 2.0]).reshape(1, 1, 2, 1)
    params = module.init(KEY, features)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    params = {"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}
    np.testing.assert_allclose(module.apply(params, features)[0, :, :, 0], [[1, 1, 2, 2]] * 2)


def numpy_group_norm(features, groups, epsilon=1e-6):
    b, h, w, c = features.shape
    grouped = features.reshape(b, h, w, groups, c // groups)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = grouped.var(axis=(1, 2, 4), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(features.shape)


def test_attention_against_numpy():
    module = SpatialAttention()
    variables = module.init(KEY, FEATURES)
    weights = jax.tree.map(np.asarray, variables["params"])
    features = np.asarray(FEATURES)
    flat = numpy_group_norm(features, 8).reshape(2, 24, 8)
    query, key, value = (flat @ weights[name]["kernel"][0, 0] for name in ("query", "key", "value"))
    scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(8))
    mixed = scores / scores.sum(-1, keepdims=True) @ value
    expected = features + (mixed @ weights["out"]["kernel"][0, 0]).reshape(features.shape)
    np.testing.assert_allclose(module.apply(variables, FEATURES), expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "has_shortcut"), [(8, False), (12, True)])
def test_the_shortcut_is_there_when_channels_change(channels, has_shortcut):
    module = ResBlock(channels=channels)
    variables = module.init(KEY, FEATURES, deterministic=True)
    assert ("shortcut" in variables["params"]) == has_shortcut
    assert module.apply(variables, FEATURES, deterministic=True).shape == (2, 4, 6, channels)


def test_dropout_needs_a_key_only_when_it_is_on():
    module = ResBlock(channels=8, dropout_rate=0.5)
    variables = module.init(KEY, FEATURES, deterministic=True)
    still = module.apply(variables, FEATURES, deterministic=True)
    dropped = module.apply(variables, FEATURES, deterministic=False, rngs={"dropout": KEY})
    assert not np.allclose(still, dropped)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    module = ResBlock(channels=8, dtype=jnp.bfloat16)
    variables = module.init(KEY, FEATURES, deterministic=True)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features = FEATURES.astype(jnp.bfloat16)
    assert module.apply(variables, features, deterministic=True).dtype == jnp.bfloat16

"""Each program for attention against NumPy; which one is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.models import kernels
from igpt_jax.models.attention import attend
from igpt_jax.models.kernels import choose_kernel, splash_attention


def inputs(slots, heads, kv_heads, head_dim, dtype=jnp.float32):
    random = np.random.default_rng(0)
    shapes = [(2, slots, count, head_dim) for count in (heads, kv_heads, kv_heads)]
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def reference(query, keys, values):
    """Causal softmax attention, row by row, in float64."""
    query, keys, values = (np.asarray(x, np.float64) for x in (query, keys, values))
    b, slots, heads, head_dim = query.shape
    out = np.zeros(query.shape)
    for row in range(b):
        for head in range(heads):
            other = head * keys.shape[2] // heads
            for slot in range(slots):
                seen = slice(0, slot + 1)
                scores = keys[row, seen, other] @ query[row, slot, head] / np.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                out[row, slot, head] = weights / weights.sum() @ values[row, seen, other]
    return out


def by_splash(query, keys, values):
    return splash_attention(query, keys, values, interpret=jax.default_backend() != "tpu")


def test_xla():
    given = inputs(9, 4, 2, 8)
    np.testing.assert_allclose(attend(*given, kernel="xla"), reference(*given), atol=1e-5)


@pytest.mark.parametrize(("slots", "kv_heads"), [(128, 2), (130, 1)])
def test_splash(slots, kv_heads):
    """Of one block, and of two of which the second is padding but for two slots."""
    given = inputs(slots, 2, kv_heads, 8)
    np.testing.assert_allclose(by_splash(*given), reference(*given), atol=1e-5)


def test_gradients_of_splash_are_those_of_xla():
    given = inputs(130, 2, 1, 8)
    pull = jnp.asarray(np.random.default_rng(1).normal(size=given[0].shape), jnp.float32)

    def gradients(attention):
        return jax.grad(lambda *x: jnp.sum(attention(*x) * pull), argnums=(0, 1, 2))(*given)

    expected = gradients(lambda *x: attend(*x, kernel="xla"))
    for got, wanted in zip(gradients(by_splash), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnn():
    given = inputs(256, 4, 4, 64, jnp.bfloat16)
    assert choose_kernel("auto", given[0], has_mask=False) == "cudnn"
    np.testing.assert_allclose(
        attend(*given, kernel="cudnn").astype(jnp.float32), reference(*given), atol=2e-2
    )


@pytest.mark.parametrize(
    ("platform", "wanted", "has_mask", "expected"),
    [
        ("cpu", "auto", False, "xla"),
        ("cpu", "splash", False, "xla"),
        ("cpu", "cudnn", False, "xla"),
        ("tpu", "auto", False, "splash"),
        ("tpu", "auto", True, "xla"),
        ("tpu", "cudnn", False, "xla"),
        ("tpu", "xla", False, "xla"),
        ("gpu", "splash", False, "xla"),
    ],
)
def test_the_kernel_is_the_platforms_unless_it_cannot(
    monkeypatch, platform, wanted, has_mask, expected
):
    monkeypatch.setattr(kernels, "platform", lambda: platform)
    query = jnp.zeros((1, 256, 2, 64), jnp.bfloat16)
    assert choose_kernel(wanted, query, has_mask=has_mask) == expected


@pytest.mark.parametrize(
    ("capability", "shape", "dtype", "expected"),
    [
        ("9.0", (1, 256, 2, 64), jnp.bfloat16, "cudnn"),
        ("7.0", (1, 256, 2, 64), jnp.bfloat16, "xla"),
        ("9.0", (1, 256, 2, 100), jnp.bfloat16, "xla"),  # LlamaGen-3B's heads
        ("9.0", (1, 256, 2, 64), jnp.float32, "xla"),
        ("9.0", (1, 255, 2, 64), jnp.bfloat16, "xla"),
    ],
)
def test_cudnn_is_chosen_for_what_it_takes(monkeypatch, capability, shape, dtype, expected):
    class Device:
        compute_capability = capability

    query = jnp.zeros(shape, dtype)
    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert choose_kernel("auto", query, has_mask=False) == expected

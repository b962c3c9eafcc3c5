import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpt_jax.sampling.logits import draw, guide, keep_top_k, keep_top_p


def numpy_top_k(row, k):
    """Keeps every logit that fewer than k others exceed."""
    if k == 0:
        return row
    kept = [sum(other > value for other in row) < k for value in row]
    return np.where(kept, row, -np.inf)


def numpy_top_p(row, p):
    """Keeps every logit that others exceed by less than p of the mass."""
    if p >= 1:
        return row
    mass = np.exp(row - row.max(), dtype=np.float64)
    mass /= mass.sum()
    exceeding = np.array([mass[row > value].sum() for value in row])
    return np.where((exceeding < p - 1e-6) | (row == row.max()), row, -np.inf)


# Few distinct values: ties are the rule, not the exception.
rows = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=6, max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, min_size=3, max_size=3), st.lists(st.integers(0, 8), min_size=3, max_size=3))
def test_top_k_against_numpy_with_ties(logits, ks):
    logits = np.asarray(logits, np.float32)
    got = keep_top_k(jnp.asarray(logits), jnp.asarray(ks, jnp.int32))
    np.testing.assert_array_equal(got, [numpy_top_k(r, k) for r, k in zip(logits, ks, strict=True)])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(rows, min_size=3, max_size=3),
    st.lists(st.floats(0.013, 1.0), min_size=3, max_size=3),
)
def test_top_p_against_numpy_with_ties(logits, ps):
    logits = np.asarray(logits, np.float32)
    got = np.asarray(keep_top_p(jnp.asarray(logits), jnp.asarray(ps, jnp.float32)))
    for row, p, kept in zip(logits, ps, got, strict=True):
        mass = np.exp(row, dtype=np.float64) / np.exp(row, dtype=np.float64).sum()
        edges = [mass[row > value].sum() for value in row]
        if min(abs(edge - p) for edge in edges) < 1e-4:  # decided by the last bit
            continue
        np.testing.assert_array_equal(kept, numpy_top_p(row, p))


def test_top_p_keeps_the_token_that_crosses():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    kept = keep_top_p(logits, jnp.asarray([0.6]))
    np.testing.assert_array_equal(np.isfinite(kept), [[True, True, False, False]])


def test_guidance():
    conditional = jax.random.normal(jax.random.key(0), (3, 5))
    unconditional = jax.random.normal(jax.random.key(1), (3, 5))
    got = guide(conditional, unconditional, jnp.asarray([1.0, 0.0, 3.0]))
    np.testing.assert_array_equal(got[0], conditional[0])
    np.testing.assert_array_equal(got[1], unconditional[1])
    expected = unconditional[2] + 3 * (conditional[2] - unconditional[2])
    np.testing.assert_allclose(got[2], expected, atol=1e-6)


def test_temperature_zero_is_argmax_whatever_the_filters():
    logits = jax.random.normal(jax.random.key(0), (4, 9))
    keys = jax.random.split(jax.random.key(1), 4)
    tokens = draw(keys, logits, jnp.zeros(4), jnp.full(4, 3), jnp.full(4, 0.5))
    np.testing.assert_array_equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_drawn_frequencies_are_the_probabilities(temperature):
    logits = jnp.asarray([0.0, 1.0, -1.0, 2.0])
    count = 20_000
    keys = jax.random.split(jax.random.key(0), count)
    tokens = draw(keys, jnp.tile(logits, (count, 1)), jnp.full(count, temperature))
    frequencies = np.bincount(tokens, minlength=4) / count
    probabilities = np.exp(np.asarray(logits) / temperature)
    probabilities /= probabilities.sum()
    sigma = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(frequencies - probabilities) < 5 * sigma).all()

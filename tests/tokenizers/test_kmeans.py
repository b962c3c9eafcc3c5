import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.tokenizers.kmeans import kmeans, nearest, sample_by_weight

KEY = jax.random.key(0)


def test_nearest_is_the_brute_force_minimum():
    generator = np.random.default_rng(0)
    points = generator.standard_normal((7, 11, 4)).astype(np.float32)
    centers = generator.standard_normal((13, 4)).astype(np.float32)
    expected = ((points[..., None, :] - centers) ** 2).sum(-1).argmin(-1)
    for chunk_size in (None, 10, 1000):
        indices = nearest(jnp.asarray(points), jnp.asarray(centers), chunk_size=chunk_size)
        np.testing.assert_array_equal(indices, expected)


def test_nearest_takes_the_lowest_index_on_a_tie():
    centers = jnp.asarray([[1.0], [0.0], [0.0]])
    assert nearest(jnp.zeros((1, 1)), centers).tolist() == [1]


def test_inertia_never_increases():
    points = jax.random.uniform(KEY, (3000, 3))
    inertia = np.asarray(kmeans(points, KEY, num_clusters=64, num_iterations=15).inertia)
    assert inertia.shape == (16,)
    assert np.all(np.diff(inertia) <= 1e-7)
    assert inertia[-1] < 0.9 * inertia[0]


@pytest.mark.parametrize("seed", range(3))
def test_separated_clusters_are_found_exactly(seed):
    generator = np.random.default_rng(seed)
    truth = 10.0 * np.stack(np.meshgrid(*[np.arange(3)] * 2), -1).reshape(-1, 2)
    members = truth[:, None] + 0.1 * generator.standard_normal((len(truth), 50, 2))
    points = jnp.asarray(members.reshape(-1, 2), jnp.float32)
    centers = kmeans(points, jax.random.key(seed), num_clusters=len(truth)).centers
    expected = members.mean(axis=1)
    by_position = np.argsort(nearest(jnp.asarray(expected, jnp.float32), centers))
    assert len(set(by_position)) == len(truth)
    found = np.asarray(centers)[np.asarray(nearest(jnp.asarray(expected, jnp.float32), centers))]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fewer_distinct_points_than_clusters_are_all_kept():
    distinct = jnp.asarray([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.25]])
    points = jnp.tile(distinct, (20, 1))
    result = kmeans(points, KEY, num_clusters=8, num_iterations=4)
    assert result.inertia[-1] == 0
    assert np.all(np.isfinite(result.centers))
    assert {tuple(row) for row in np.asarray(result.centers)} == {
        tuple(row) for row in np.asarray(distinct)
    }


def test_fewer_points_than_clusters():
    points = jnp.asarray([[0.0], [1.0]])
    assert kmeans(points, KEY, num_clusters=5, num_iterations=2).inertia[-1] == 0


def test_the_key_decides_and_chunks_do_not():
    points = jax.random.uniform(KEY, (500, 2))
    first = kmeans(points, KEY, num_clusters=20, num_iterations=3).centers
    again = kmeans(points, KEY, num_clusters=20, num_iterations=3, chunk_size=64).centers
    other = kmeans(points, jax.random.key(1), num_clusters=20, num_iterations=3).centers
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert not np.allclose(first, other)


def test_samples_follow_the_weights():
    weights = jnp.asarray([0.0, 1.0, 0.0, 3.0])
    indices = np.asarray(sample_by_weight(weights, KEY, num_samples=4000))
    counts = np.bincount(indices, minlength=4)
    assert counts[0] == counts[2] == 0
    assert counts[3] / 4000 == pytest.approx(0.75, abs=0.03)

"""The Fréchet distance against closed forms, and against the root of the unsymmetric product."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from igpt_jax.errors import UserError
from igpt_jax.evaluation.frechet import (
    FeatureStatistics,
    frechet_distance,
    gaussian_frechet_distance,
)


def statistics_of(*batches):
    statistics = FeatureStatistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


def random_covariance(random, dimension, rank):
    factor = random.standard_normal((dimension, rank))
    return factor @ factor.T / rank


def reference_distance(mean_a, covariance_a, mean_b, covariance_b):
    root = sqrtm(covariance_a @ covariance_b)
    cross_trace = np.trace(root).real
    return np.sum((mean_a - mean_b) ** 2) + np.trace(covariance_a + covariance_b) - 2 * cross_trace


def test_gaussians_with_common_axes():
    """They are apart by the means and the standard deviations, whatever the axes."""
    random = np.random.default_rng(0)
    mean_a, mean_b = random.standard_normal((2, 6))
    deviation_a, deviation_b = random.uniform(0.1, 3, (2, 6))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((deviation_a - deviation_b) ** 2)
    turned, _ = np.linalg.qr(random.standard_normal((6, 6)))
    for axes in (np.eye(6), turned):
        covariances = [axes @ np.diag(x**2) @ axes.T for x in (deviation_a, deviation_b)]
        distance = gaussian_frechet_distance(mean_a, covariances[0], mean_b, covariances[1])
        np.testing.assert_allclose(distance, expected, rtol=1e-12)


def test_gaussians_with_crossed_axes():
    """diag(4, 1) against itself turned by an angle: tr sqrt(AB) from trace and determinant."""
    for angle in (0.3, np.pi / 4, np.pi / 2):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        first, second = np.diag([4.0, 1.0]), turn @ np.diag([4.0, 1.0]) @ turn.T
        cross_trace = np.sqrt(np.trace(first @ second) + 2 * np.sqrt(np.linalg.det(first) ** 2))
        distance = gaussian_frechet_distance(np.zeros(2), first, np.zeros(2), second)
        np.testing.assert_allclose(distance, 10 - 2 * cross_trace, rtol=1e-12)


@pytest.mark.parametrize("dimension", [1, 7, 64])
def test_equals_the_root_of_the_unsymmetric_product(dimension):
    random = np.random.default_rng(dimension)
    first, second = (random_covariance(random, dimension, 2 * dimension) for _ in range(2))
    mean_a, mean_b = random.standard_normal((2, dimension))
    gaussians = (mean_a, first, mean_b, second)
    distance = gaussian_frechet_distance(*gaussians)
    np.testing.assert_allclose(distance, reference_distance(*gaussians), rtol=1e-9)
    back = gaussian_frechet_distance(mean_b, second, mean_a, first)
    np.testing.assert_allclose(distance, back, rtol=1e-12)


def test_singular_covariances():
    """On 3 of 8 axes each, one axis in common."""
    first = np.diag([1.0, 4.0, 9.0, 0, 0, 0, 0, 0])
    second = np.diag([0, 0, 16.0, 1.0, 1.0, 0, 0, 0])
    turned, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))
    distance = gaussian_frechet_distance(
        np.zeros(8), turned @ first @ turned.T, np.zeros(8), turned @ second @ turned.T
    )
    np.testing.assert_allclose(distance, 1 + 4 + 2 + (4 - 3) ** 2, rtol=1e-7)


def test_statistics_are_those_of_numpy():
    features = np.random.default_rng(0).standard_normal((50, 5)) + 1e6
    statistics = statistics_of(features)
    assert statistics.count == 50
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), rtol=1e-9)


@given(st.lists(st.integers(0, 40), max_size=6))
def test_any_split_into_batches_gives_the_same(cuts):
    features = np.random.default_rng(0).standard_normal((40, 4)) * [1, 10, 0.1, 1] + [0, 1e4, 0, 5]
    whole, split = statistics_of(features), statistics_of(*np.split(features, sorted(cuts)))
    assert split.count == whole.count
    np.testing.assert_allclose(split.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(split.covariance, whole.covariance, rtol=1e-7, atol=1e-9)


def test_float32_features_of_jax_are_summed_in_float64():
    features = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32) + 300
    statistics = statistics_of(*np.split(jnp.asarray(features), 10))
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [10, 100])
def test_equal_sets_are_no_distance_apart(count):
    features = np.random.default_rng(0).standard_normal((count, 20)) * np.geomspace(1, 1e-4, 20)
    assert 0 <= frechet_distance(statistics_of(features), statistics_of(features)) < 1e-12


def test_distance_grows_with_noise():
    random = np.random.default_rng(0)
    features, noise = random.standard_normal((2, 500, 16))
    clean = statistics_of(features)
    distances = [
        frechet_distance(clean, statistics_of(features + level * noise))
        for level in (0.0, 0.1, 0.3, 1.0, 3.0)
    ]
    assert distances[0] < 1e-10
    assert np.all(np.diff(distances) > 1e-4)


def test_samples_come_near_the_distance_of_their_gaussians():
    random = np.random.default_rng(0)
    first = statistics_of(random.standard_normal((20_000, 3)))
    second = statistics_of(1.0 + 2.0 * random.standard_normal((20_000, 3)))
    np.testing.assert_allclose(frechet_distance(first, second), 3 + 3, rtol=0.03)


def test_too_few_images_are_warned_of(caplog):
    random = np.random.default_rng(0)
    few, many = (statistics_of(random.standard_normal((count, 8))) for count in (8, 9))
    frechet_distance(many, many)
    assert not caplog.records
    frechet_distance(many, few)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("igpt_jax", "WARNING")
    assert "8 images with 8 features" in record.getMessage()


def test_too_few_images_for_a_covariance():
    one = statistics_of(np.ones((1, 3)))
    two = statistics_of(np.ones((2, 3)))
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        frechet_distance(two, one)
    with pytest.raises(UserError, match="at least 1 images, got 0"):
        frechet_distance(FeatureStatistics(), two)


def test_dimensions_must_agree():
    two, three = (statistics_of(np.eye(5, dimension)) for dimension in (2, 3))
    with pytest.raises(UserError, match="one dimension on both sides, got 2 and 3"):
        frechet_distance(two, three)
    with pytest.raises(UserError, match="dimension 2 as before, got 3"):
        two.update(np.eye(5, 3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_as_a_whole(value):
    features = np.random.default_rng(0).standard_normal((6, 3))
    statistics = statistics_of(features)
    broken = features.copy()
    broken[4, 1] = value
    with pytest.raises(UserError, match="finite values, got others in image 10;"):
        statistics.update(broken)
    assert statistics.count == 6
    np.testing.assert_array_equal(statistics.mean, statistics_of(features).mean)

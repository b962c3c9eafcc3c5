"""Precision, recall, density and coverage, against their definitions in loops."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from igpt_jax.errors import UserError
from igpt_jax.evaluation import neighbours
from igpt_jax.evaluation.neighbours import nearest, neighbourhood


def gaussians(count, dimension=8, seed=0, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, (count, dimension)).astype(np.float32)


def by_definition(real, fake, k):
    real_radii = [sorted(row)[k] for row in cdist(real, real)]  # place 0 is the feature itself
    fake_radii = [sorted(row)[k] for row in cdist(fake, fake)]
    apart = cdist(real, fake)
    within = [[apart[i, j] <= real_radii[i] for i in range(len(real))] for j in range(len(fake))]
    precision = np.mean([any(balls) for balls in within])
    recall = np.mean([any(apart[i] <= fake_radii) for i in range(len(real))])
    density = np.mean([sum(balls) / k for balls in within])
    coverage = np.mean([any(balls[i] for balls in within) for i in range(len(real))])
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_definitions(k, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 32)  # several blocks, and a short last one
    real, fake = gaussians(90), gaussians(70, seed=1, scale=0.8, shift=0.4)
    expected = by_definition(real, fake, k)
    assert 0.1 < min(expected[:2]) < 1
    np.testing.assert_allclose(neighbourhood(real, fake, k=k), expected, atol=1e-6)


def test_far_from_the_origin_nothing_cancels():
    real, fake = gaussians(60), gaussians(60, seed=1)
    far = neighbourhood(real + np.float32(1000), fake + np.float32(1000), k=3)
    np.testing.assert_allclose(far, neighbourhood(real, fake, k=3), atol=0.02)


def test_the_same_set_is_ideal_and_distant_ones_share_nothing():
    real = gaussians(50)
    same = neighbourhood(real, real.copy())
    assert same.precision == same.recall == same.coverage == 1
    assert neighbourhood(real, real + np.float32(100)) == (0, 0, 0, 0)


def test_two_draws_of_one_distribution_have_density_one_and_the_expected_coverage():
    """Coverage of equal distributions is 1 - (n - 1)...(n - k) / ((2n - 1)...(2n - k)), lemma 2."""
    n, k = 400, 5
    values = [
        neighbourhood(gaussians(n, 16, seed=2 * i), gaussians(n, 16, seed=2 * i + 1), k=k)
        for i in range(8)
    ]
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    assert np.mean([value.coverage for value in values]) == pytest.approx(expected, abs=0.01)
    assert np.mean([value.density for value in values]) == pytest.approx(1, abs=0.05)


def test_lost_modes_lower_recall_and_coverage_but_not_precision():
    centres = gaussians(6, seed=3, scale=30)
    real = np.concatenate([centre + gaussians(40, seed=i) for i, centre in enumerate(centres)])
    fake = [centre + gaussians(40, seed=10 + i) for i, centre in enumerate(centres)]
    values = [neighbourhood(real, np.concatenate(fake[:kept])) for kept in (6, 4, 2, 1)]
    for name in ("recall", "coverage"):
        scores = [getattr(value, name) for value in values]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] < 0.2 < 0.8 < scores[0]
    assert min(value.precision for value in values) > 0.8


def test_noise_lowers_precision():
    real = gaussians(200)
    values = [
        neighbourhood(real, gaussians(200, seed=1) + gaussians(200, seed=2, scale=noise))
        for noise in (0.0, 0.5, 1.0, 3.0)
    ]
    for name in ("precision", "density", "coverage"):
        scores = [getattr(value, name) for value in values]
        assert scores == sorted(scores, reverse=True)


def test_nearest_against_all_distances():
    queries, features = gaussians(20, seed=1), gaussians(50)
    indices, distances = nearest(queries, features, k=3)
    apart = cdist(queries, features)
    np.testing.assert_array_equal(indices, np.argsort(apart, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(apart, axis=1)[:, :3], rtol=1e-4)


def test_what_cannot_be_compared_is_refused():
    real = gaussians(10)
    with pytest.raises(UserError, match=r"expected more than k = 5.* got 10 and 5"):
        neighbourhood(real, gaussians(5))
    with pytest.raises(UserError, match=r"one dimension on both sides, got 8 and 4"):
        neighbourhood(real, gaussians(10, 4))
    broken = real.copy()
    broken[7, 2] = np.nan
    with pytest.raises(UserError, match=r"image 7 of the second set"):
        neighbourhood(real, broken)

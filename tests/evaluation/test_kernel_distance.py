"""The kernel distance, against sums in loops and a case with a closed form."""

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.evaluation.kernel_distance import kernel_distance


def gaussians(count, dimension, seed, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, (count, dimension)).astype(np.float32)


def kernel(x, y):
    return (np.dot(x.astype(np.float64), y.astype(np.float64)) / len(x) + 1) ** 3


def test_one_subset_of_everything_is_the_unbiased_estimate():
    real, fake = gaussians(12, 5, 0), gaussians(12, 5, 1, shift=0.5)
    pairs = [(i, j) for i in range(12) for j in range(12)]
    within = [
        np.mean([kernel(side[i], side[j]) for i, j in pairs if i != j]) for side in (real, fake)
    ]
    between = np.mean([kernel(real[i], fake[j]) for i, j in pairs])
    value = kernel_distance(real, fake, num_subsets=1)
    assert value.mean == pytest.approx(sum(within) - 2 * between, rel=1e-9)
    assert value.deviation == 0


def test_gaussians_with_a_closed_form():
    """In one dimension E[(xy + 1)^3] follows from the first three moments of both sides."""
    shift = 0.7
    moments = {0.0: (0, 1, 0), shift: (shift, 1 + shift**2, shift**3 + 3 * shift)}

    def expected(a, b):
        (a1, a2, a3), (b1, b2, b3) = moments[a], moments[b]
        return a3 * b3 + 3 * a2 * b2 + 3 * a1 * b1 + 1

    truth = expected(0.0, 0.0) + expected(shift, shift) - 2 * expected(0.0, shift)
    estimates = [
        kernel_distance(
            gaussians(2000, 1, 2 * i), gaussians(2000, 1, 2 * i + 1, shift=shift), num_subsets=1
        ).mean
        for i in range(40)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 3 * error < 0.5 * truth


def test_equal_distributions_are_near_zero_and_noise_moves_away():
    real = gaussians(500, 16, 0)
    values = [
        kernel_distance(real, gaussians(500, 16, 1, scale=scale), subset_size=200).mean
        for scale in (1.0, 1.3, 1.6, 2.0)
    ]
    assert abs(values[0]) < 0.02 < values[1] < values[2] < values[3]


def test_too_few_and_broken_features_are_refused():
    real = gaussians(10, 4, 0)
    with pytest.raises(UserError, match="at least 2 images"):
        kernel_distance(real, real[:1])
    with pytest.raises(UserError, match="one dimension on both sides, got 4 and 3"):
        kernel_distance(real, real[:, :3])
    broken = real.copy()
    broken[3] = np.inf
    with pytest.raises(UserError, match="finite"):
        kernel_distance(real, broken)

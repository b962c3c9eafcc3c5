"""The Fréchet distance between two sets of features: FID, when the features are Inception's.

Both sets are taken for Gaussian (Dowson & Landau 1982; Heusel et al. 2017, equation 6). State the
number of images on both sides with every value: the distance is biased upwards when they are few.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.feature_checks import check_dimensions, check_finite
from igpt_jax.typing import Array, Float

_logger: Final = logging.getLogger("igpt_jax")


@dataclass(frozen=True)
class Moments:
    """What is left of features whose pictures are elsewhere.

    Attributes:
        mean: float64 `[d]`.
        covariance: float64 `[d d]`.
        count: of pictures; None where a file does not tell.
    """

    mean: Any
    covariance: Any
    count: int | None = None


class FeatureStatistics:
    """Mean and covariance of features that come batch by batch, in float64.

    Batches are merged by the deviations from their own means (Chan et al. 1983), so that nothing
    cancels however far the features lie from zero.

    Attributes:
        count: features seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))  # sum of outer products of deviations from the mean

    def update(self, features: Float[Array | np.ndarray, "b d"]) -> None:
        """Take in a batch.

        Raises:
            UserError: a feature is not finite, or there are more or fewer than before; nothing of
                the batch is taken in.
        """
        batch = np.asarray(features, np.float64)
        size, dimension = batch.shape
        if self.count and dimension != self._mean.size:
            raise UserError(
                f"features expect dimension {self._mean.size} as before, got {dimension}; "
                "do not mix feature extractors"
            )
        check_finite(batch, first=self.count)
        if size == 0:
            return
        if not self.count:
            self._mean, self._scatter = np.zeros(dimension), np.zeros((dimension, dimension))
        batch_mean = batch.mean(axis=0)
        deviations = batch - batch_mean
        shift = batch_mean - self._mean
        total = self.count + size
        self._scatter += deviations.T @ deviations
        self._scatter += np.outer(shift, shift) * (self.count * size / total)
        self._mean = self._mean + shift * (size / total)
        self.count = total

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mean.

        Raises:
            UserError: there are no features.
        """
        self._require(1)
        return self._mean.copy()

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased covariance (divisor: count - 1).

        Raises:
            UserError: there are fewer than two features.
        """
        self._require(2)
        return self._scatter / (self.count - 1)

    def _require(self, least: int) -> None:
        if self.count < least:
            raise UserError(
                f"feature statistics expect at least {least} images, got {self.count}; add images"
            )


def frechet_distance(a: FeatureStatistics | Moments, b: FeatureStatistics | Moments) -> float:
    """Return the squared Fréchet distance of two sets of features, which is what FID reports.

    Logs a warning for a set with no more features than dimensions: its covariance is singular.

    Raises:
        UserError: a set has fewer than two features, or the dimensions differ.
    """
    distance = gaussian_frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    dimension = a.mean.size
    for statistics in (a, b):
        if is_singular(statistics.count, dimension):
            _logger.warning(
                "Fréchet distance of %d images with %d features each: the covariance is singular "
                "and the value biased upwards; take more images",
                statistics.count,
                dimension,
            )
    return distance


def is_singular(count: int | None, dimension: int) -> bool:
    """Whether so few pictures leave a covariance singular; False where their number is unknown."""
    return count is not None and count <= dimension


def gaussian_frechet_distance(
    mean_a: Float[np.ndarray, " d"],
    covariance_a: Float[np.ndarray, "d d"],
    mean_b: Float[np.ndarray, " e"],
    covariance_b: Float[np.ndarray, "e e"],
) -> float:
    """Return the squared Fréchet distance of two Gaussians (Dowson & Landau 1982, equation 4).

    With covariances A A^T and B B^T, the trace of the root of their product is the sum of the
    singular values of A^T B: unlike a root of the unsymmetric product this is always real, and
    singular covariances need no offset on the diagonal.

    Raises:
        UserError: the dimensions differ.
    """
    check_dimensions(mean_a.size, mean_b.size)
    product = _factor(covariance_a).T @ _factor(covariance_b)
    cross_trace = np.linalg.svd(product, compute_uv=False).sum()
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    distance = np.sum((mean_a - mean_b) ** 2) + traces - 2.0 * cross_trace
    return max(float(distance), 0.0)  # rounding can leave equal sets just below


def _factor(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """A matrix F with F F^T the covariance; eigenvalues that rounding made negative count as 0."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(eigenvalues, 0.0))

"""The kernel distance between two sets of features: KID, when the features are Inception's."""

from typing import NamedTuple

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.feature_checks import check_sides
from igpt_jax.typing import Float


class KernelDistance(NamedTuple):
    """Mean over subsets, and their standard deviation."""

    mean: float
    deviation: float


def kernel_distance(
    real: Float[np.ndarray, "n d"],
    fake: Float[np.ndarray, "m e"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³.

    Bińkowski et al. 2018, section 4: without bias at any number of images, and below 0 at times.

    Args:
        real: features of real images.
        fake: features of generated images.
        num_subsets: how often both sides are drawn from.
        subset_size: features in a subset, without repetition; all there are if fewer.
        seed: of the subsets.

    Raises:
        UserError: fewer than two features on a side, other dimensions, or values that are not
            finite.
    """
    check_sides(real, fake)
    size = min(subset_size, len(real), len(fake))
    if size < 2 or num_subsets < 1:
        raise UserError(
            f"kernel distance: expected at least 2 images a subset and 1 subset, got {size} and "
            f"{num_subsets}; add images"
        )
    random = np.random.default_rng(seed)
    values = [
        _squared_discrepancy(
            real[random.choice(len(real), size, replace=False)].astype(np.float64),
            fake[random.choice(len(fake), size, replace=False)].astype(np.float64),
        )
        for _ in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _squared_discrepancy(a: Float[np.ndarray, "s d"], b: Float[np.ndarray, "s d"]) -> float:
    return _mean_of_others(a) + _mean_of_others(b) - 2 * float(_kernel(a, b).mean())


def _mean_of_others(a: Float[np.ndarray, "s d"]) -> float:
    """The mean of the kernel over all pairs of two different features."""
    kernel = _kernel(a, a)
    return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))


def _kernel(a: Float[np.ndarray, "s d"], b: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "s s"]:
    base = a @ b.T / a.shape[1] + 1
    return base * base * base  # several times as fast as a power

"""What nearest neighbours say of two sets of features: precision, recall, density, coverage.

The support of a set is the union of balls about its features, each as wide as the distance to the
k-th nearest other feature of the set. With every value state k and the number of images on both
sides: all of them depend on these.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.feature_checks import check_sides
from igpt_jax.typing import Array, Float, Int

_BLOCK = 1024  # rows of the matrix of distances that are held at once


class Neighbourhood(NamedTuple):
    """How a set of generated features lies among real ones.

    Attributes:
        precision: share of generated features within the support of the real ones
            (Kynkäänniemi et al. 2019, equation 2).
        recall: share of real features within the support of the generated ones.
        density: balls of real features that a generated one lies in, divided by k; the mean may
            exceed 1 (Naeem et al. 2020, equation 3).
        coverage: share of real features in whose ball a generated one lies (equation 4).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m e"], *, k: int = 5
) -> Neighbourhood:
    """Compares generated features with real ones.

    Args:
        real: features of real images.
        fake: features of generated images.
        k: neighbours that a ball reaches; 3 in Kynkäänniemi et al., 5 in Naeem et al.

    Raises:
        UserError: k or fewer features on a side, other dimensions, or features that are not finite.
    """
    _check(real, fake, k)
    centre = real.mean(axis=0, dtype=np.float64)  # distances round least about the origin
    a, b = (jnp.asarray(features - centre, jnp.float32) for features in (real, fake))
    a_radii, b_radii = _radii(a, k), _radii(b, k)
    balls = in_fake = 0
    precise, covered = [], []
    for block in _blocks(b):
        within = _squared_distances(block, a) <= a_radii
        balls += int(within.sum())
        precise.append(np.asarray(within.any(axis=1)))
        covered.append(np.asarray(within.any(axis=0)))
    for block in _blocks(a):
        in_fake += int((_squared_distances(block, b) <= b_radii).any(axis=1).sum())
    return Neighbourhood(
        precision=float(np.concatenate(precise).mean()),
        recall=in_fake / len(real),
        density=balls / (k * len(fake)),
        coverage=float(np.any(covered, axis=0).mean()),
    )


def nearest(
    queries: Float[np.ndarray, "q e"], features: Float[np.ndarray, "n d"], *, k: int = 1
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Finds the k nearest of `features` for each query: indices, nearest first, and distances.

    Raises:
        UserError: fewer than k features, other dimensions, or features that are not finite.
    """
    _check(features, queries, k - 1, least_fake=1)
    centre = features.mean(axis=0, dtype=np.float64)
    asked, known = (jnp.asarray(x - centre, jnp.float32) for x in (queries, features))
    found = [_nearest(block, known, k) for block in _blocks(asked)]
    indices, squared = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return indices, np.sqrt(squared)


def _radii(features: Float[Array, "n d"], k: int) -> Float[Array, " n"]:
    """Squared distance of each feature to its k-th nearest other one."""
    return jnp.concatenate(
        [_nearest(block, features, k + 1)[1][:, k] for block in _blocks(features)]
    )


def _blocks(features: Float[Array, "n d"]) -> list[Float[Array, "_ d"]]:
    return [features[i : i + _BLOCK] for i in range(0, len(features), _BLOCK)]


@partial(jax.jit, static_argnums=2)
def _nearest(
    queries: Float[Array, "q d"], features: Float[Array, "n d"], k: int
) -> tuple[Int[Array, "q k"], Float[Array, "q k"]]:
    negative, indices = jax.lax.top_k(-_squared_distances(queries, features), k)
    return indices, -negative


@jax.jit
def _squared_distances(a: Float[Array, "q d"], b: Float[Array, "n d"]) -> Float[Array, "q n"]:
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)
    return jnp.maximum(squares - 2 * products, 0.0)


def _check(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m e"], k: int, least_fake: int = 0
) -> None:
    check_sides(real, fake)
    if len(real) <= k or len(fake) < (least_fake or k + 1):
        raise UserError(
            f"features: expected more than k = {k} on each side, got {len(real)} and {len(fake)}; "
            "add images or lower k"
        )

"""k-means on one device, chunked so that a million points times 512 centres fits in memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igpt_jax.typing import Array, Bool, Float, Int, PRNGKey

CHUNK_SIZE = 16_384  # points a chunk: 16384 x 512 float32 distances are 32 MiB


class KMeans(NamedTuple):
    """Centres, and what they cost before each Lloyd iteration and after the last."""

    centers: Float[Array, "v d"]
    inertia: Float[Array, " iterations"]
    """Mean squared distance of a point to its centre, never increasing."""


def nearest(
    points: Float[Array, "*n d"],
    centers: Float[Array, "v d"],
    *,
    chunk_size: int | None = None,
    is_used: Bool[Array, " v"] | None = None,
    tolerance: Float[Array, ""] | None = None,
) -> Int[Array, "*n"]:
    """Return the index of the nearest centre of every point, the lowest one on a tie.

    Always in float32 with exact products: a bfloat16 distance picks other centres.

    Args:
        points: what to assign.
        centers: what to assign it to.
        chunk_size: points handled at once; `None` handles all of them at once.
        is_used: which centres to choose from; `None` is all.
        tolerance: squared distances that differ by no more than this are a tie, so that rounding,
            which depends on the number of points, does not choose between equal centres.
    """
    flat = points.astype(jnp.float32).reshape(-1, points.shape[-1])
    centers = centers.astype(jnp.float32)
    squared_norms = jnp.sum(centers**2, axis=-1)

    def assign(some: Float[Array, "*m d"]) -> Int[Array, "*m"]:
        # |x|^2 is the same for every centre, so the argmin does without it.
        products = jnp.matmul(some, centers.T, precision=jax.lax.Precision.HIGHEST)
        apart = squared_norms - 2.0 * products
        if is_used is not None:
            apart = jnp.where(is_used, apart, jnp.inf)
        if tolerance is None:
            return jnp.argmin(apart, axis=-1).astype(jnp.int32)
        least = jnp.min(apart, axis=-1, keepdims=True)
        return jnp.argmax(apart <= least + tolerance, axis=-1).astype(jnp.int32)

    if chunk_size is None or flat.shape[0] <= chunk_size:
        indices = assign(flat)
    else:
        indices = jax.lax.map(assign, flat, batch_size=chunk_size)
    return indices.reshape(points.shape[:-1])


def squared_error(
    points: Float[Array, "n d"], centers: Float[Array, "v d"], indices: Int[Array, " n"]
) -> Float[Array, " n"]:
    """Return the squared distance of every point to the centre it is assigned to."""
    return jnp.sum((points - centers[indices]) ** 2, axis=-1)


def sample_by_weight(
    weights: Float[Array, " n"], key: PRNGKey, *, num_samples: int
) -> Int[Array, " num_samples"]:
    """Draw indices with probability proportional to `weights`; the last one if all are zero."""
    cumulative = jnp.cumsum(weights)
    uniform = jax.random.uniform(key, (num_samples,)) * cumulative[-1]
    indices = jnp.searchsorted(cumulative, uniform, side="right")
    return jnp.minimum(indices, weights.shape[0] - 1).astype(jnp.int32)


def spread_centers(
    points: Float[Array, "n d"], num_centers: int, key: PRNGKey
) -> Float[Array, "num_centers d"]:
    """Choose points as centres, each with probability proportional to its squared error so far.

    Source: k-means++ (Arthur and Vassilvitskii 2007, section 2.2).
    """
    first_key, key = jax.random.split(key)
    first = points[jax.random.randint(first_key, (), 0, points.shape[0])]

    def add_center(
        error: Float[Array, " n"], step_key: PRNGKey
    ) -> tuple[Float[Array, " n"], Float[Array, " d"]]:
        center = points[sample_by_weight(error, step_key, num_samples=1)[0]]
        return jnp.minimum(error, jnp.sum((points - center) ** 2, axis=-1)), center

    error = jnp.sum((points - first) ** 2, axis=-1)
    _, others = jax.lax.scan(add_center, error, jax.random.split(key, num_centers - 1))
    return jnp.concatenate([first[None], others])


def reseed_empty(
    points: Float[Array, "n d"],
    centers: Float[Array, "v d"],
    error: Float[Array, " n"],
    is_empty: Bool[Array, " v"],
) -> Float[Array, "v d"]:
    """Move the i-th empty centre to the i-th worst served point, where there is one off centre."""
    num_candidates = min(points.shape[0], centers.shape[0])
    worst_error, worst = jax.lax.top_k(error, num_candidates)
    rank = jnp.cumsum(is_empty, dtype=jnp.int32) - 1
    candidate = jnp.clip(rank, 0, num_candidates - 1)
    moves = is_empty & (rank < num_candidates) & (worst_error[candidate] > 0)
    return jnp.where(moves[:, None], points[worst[candidate]], centers)


@partial(jax.jit, static_argnames=("num_clusters", "num_iterations", "chunk_size"))
def kmeans(
    points: Float[Array, "n d"],
    key: PRNGKey,
    *,
    num_clusters: int,
    num_iterations: int = 20,
    chunk_size: int = CHUNK_SIZE,
) -> KMeans:
    """Cluster points: a k-means++ start, then Lloyd iterations that re-seed empty clusters.

    Args:
        points: what to cluster.
        key: decides the start; the same key gives the same centres.
        num_clusters: number of centres; more than there are distinct points leaves some unused.
        num_iterations: Lloyd iterations.
        chunk_size: points whose distances are held at once.

    Returns:
        The centres, with `num_iterations + 1` values of the inertia.
    """
    points = points.astype(jnp.float32)

    def measure(centers: Float[Array, "v d"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
        indices = nearest(points, centers, chunk_size=chunk_size)
        return indices, squared_error(points, centers, indices)

    def iterate(
        centers: Float[Array, "v d"], _: None
    ) -> tuple[Float[Array, "v d"], Float[Array, ""]]:
        indices, error = measure(centers)
        counts = jax.ops.segment_sum(jnp.ones_like(error), indices, num_clusters)
        sums = jax.ops.segment_sum(points, indices, num_clusters)
        is_empty = counts == 0
        means = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1)[:, None], centers)
        updated = jax.lax.cond(
            jnp.any(is_empty),
            lambda: reseed_empty(points, means, error, is_empty),
            lambda: means,
        )
        return updated, jnp.mean(error)

    start = spread_centers(points, num_clusters, key)
    centers, inertia = jax.lax.scan(iterate, start, None, length=num_iterations)
    _, error = measure(centers)
    return KMeans(centers, jnp.append(inertia, jnp.mean(error)))

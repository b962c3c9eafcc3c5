"""Rotary positions over grid coordinates: adjacent channel pairs, one share of pairs an axis."""

import jax.numpy as jnp
import numpy as np

from igpt_jax.typing import Array, Float, Int


def raster_coordinates(grid_shape: tuple[int, int]) -> Int[np.ndarray, "l 3"]:
    """Coordinates (time, row, column) of each token of one picture, in raster order."""
    rows, columns = np.indices(grid_shape)
    coordinates = np.stack([np.zeros_like(rows), rows, columns], axis=-1)
    return coordinates.reshape(-1, 3).astype(np.int32)


def rotation(
    coordinates: Int[Array, "*b s 3"], head_dim: int, base: float
) -> tuple[Float[Array, "*b s k_half"], Float[Array, "*b s k_half"]]:
    """Cosines and sines of the rotary embedding (Su et al. 2021) in two dimensions.

    The first half of the channel pairs turns with the row, the second half with the column
    (LlamaGen, `precompute_freqs_cis_2d`). `head_dim` must divide by 4.
    """
    quarter = head_dim // 4
    frequencies = base ** (-np.arange(quarter, dtype=np.float32) / quarter)
    grid = coordinates[..., 1:].astype(jnp.float32)
    angles = (grid[..., None] * frequencies).reshape(*grid.shape[:-1], 2 * quarter)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "b s n k"],
    cos: Float[Array, "#b s k_half"],
    sin: Float[Array, "#b s k_half"],
) -> Float[Array, "b s n k"]:
    """Turns the channel pairs (2i, 2i + 1) by the given angles, in float32."""
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)

"""Rotary positions over grid coordinates: adjacent channel pairs, one share of pairs an axis."""

import jax.numpy as jnp
import numpy as np

from igpt_jax.typing import Array, Float, Int


def raster_coordinates(grid_shape: tuple[int, int], num_frames: int = 1) -> Int[np.ndarray, "l 3"]:
    """Coordinates (time, row, column) of each token, frame by frame in raster order."""
    coordinates = np.indices((num_frames, *grid_shape))
    return coordinates.reshape(3, -1).T.astype(np.int32)


def rotation(
    coordinates: Int[Array, "*b s 3"], head_dim: int, base: float, *, in_time: bool = False
) -> tuple[Float[Array, "*b s k_half"], Float[Array, "*b s k_half"]]:
    """Cosines and sines of the rotary embedding (Su et al. 2021) in two or three dimensions.

    In two, the first half of the channel pairs turns with the row, the second half with the column
    (LlamaGen, `precompute_freqs_cis_2d`). In time as well, a quarter of the pairs turns with the
    time, and rows and columns share the rest (CogVideoX, Yang et al. 2024, section 2.2).

    Args:
        coordinates: (time, row, column) of each slot.
        head_dim: channels; must divide by 4.
        base: of the wave lengths.
        in_time: three dimensions.
    """
    pairs = head_dim // 2
    time = pairs // 4 if in_time else 0
    rows = (pairs - time) // 2
    angles = []
    for axis, count in enumerate((time, rows, pairs - time - rows)):
        frequencies = base ** (-np.arange(count, dtype=np.float32) / max(count, 1))
        angles.append(coordinates[..., axis, None].astype(jnp.float32) * frequencies)
    turned = jnp.concatenate(angles, axis=-1)
    return jnp.cos(turned), jnp.sin(turned)


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

"""The energy distance of two sets of pictures, cheap enough to watch a training by."""

import jax.numpy as jnp

from igpt_jax.typing import Array, Float

THUMBNAIL_SIZE = 8
_LEAST = 1e-12  # under a root: its slope at 0 is infinite


def energy_distance(real: Float[Array, "n d"], fake: Float[Array, "m d"]) -> Float[Array, ""]:
    """Return 2 E|x - y| - E|x - x'| - E|y - y'| over different elements of two sets.

    Székely & Rizzo 2013, section 2, without the pairs of an element with itself: 0 on average
    for sets of one distribution, above it for others, whatever the number of elements.
    """
    num_real, num_fake = len(real), len(fake)
    across = jnp.mean(_distances(real, fake))
    within_real = jnp.sum(_distances(real, real)) / max(num_real * (num_real - 1), 1)
    within_fake = jnp.sum(_distances(fake, fake)) / max(num_fake * (num_fake - 1), 1)
    return 2 * across - within_real - within_fake


def thumbnails(images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
    """Return the means of about 8 x 8 squares of each picture, as one row a picture."""
    batch, height, width, _ = images.shape
    rows, columns = (max(size // THUMBNAIL_SIZE, 1) for size in (height, width))
    cut = images[:, : height // rows * rows, : width // columns * columns]
    squares = cut.reshape(batch, height // rows, rows, width // columns, columns, 3)
    return squares.mean(axis=(2, 4)).reshape(batch, -1)


def _distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    squares = jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)
    return jnp.where(squares > _LEAST, jnp.sqrt(jnp.maximum(squares, _LEAST)), 0.0)

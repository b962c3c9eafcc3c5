"""Orders of tokens in which everything known comes first."""

import jax
import jax.numpy as jnp

from igpt_jax.typing import Array, Bool, Int, PRNGKey

# How often training hides a rectangle, all around one, cells here and there, or everything (which
# is raster order).
HIDDEN_SHARES = {"rectangle": 0.4, "around": 0.15, "scattered": 0.2, "everything": 0.25}


def known_first(is_known: Bool[Array, "b l"]) -> Int[Array, "b l"]:
    """Cells with the known ones first, both in raster order."""
    return jnp.argsort(~is_known, axis=1, stable=True)


def random_known(key: PRNGKey, batch_size: int, grid_shape: tuple[int, int]) -> Bool[Array, "b l"]:
    """Cells that training lets a picture's completion see, by `HIDDEN_SHARES`."""

    def one(key: PRNGKey) -> Bool[Array, " l"]:
        kind_key, box_key, share_key, cell_key = jax.random.split(key, 4)
        inside = _rectangle(box_key, grid_shape).reshape(-1)
        share = jax.random.uniform(share_key)
        scattered = jax.random.uniform(cell_key, inside.shape) < share
        kinds = jnp.stack([~inside, inside, scattered, jnp.zeros_like(inside)])
        shares = jnp.asarray(list(HIDDEN_SHARES.values()))
        return kinds[jax.random.choice(kind_key, len(shares), p=shares)]

    return jax.vmap(one)(jax.random.split(key, batch_size))


def _rectangle(key: PRNGKey, grid_shape: tuple[int, int]) -> Bool[Array, "gh gw"]:
    """Cells of a rectangle of any size and place, a whole side of the grid as often as not."""

    def span(key: PRNGKey, size: int) -> Bool[Array, " g"]:
        whole_key, length_key, start_key = jax.random.split(key, 3)
        length = jax.random.randint(length_key, (), 1, size + 1)
        length = jnp.where(jax.random.bernoulli(whole_key), size, length)
        start = jax.random.randint(start_key, (), 0, size - length + 1)
        cells = jnp.arange(size)
        return (cells >= start) & (cells < start + length)

    row_key, column_key = jax.random.split(key)
    return span(row_key, grid_shape[0])[:, None] & span(column_key, grid_shape[1])

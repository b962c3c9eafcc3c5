"""Orders of tokens in which everything known comes first."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Bool, Int, PRNGKey


@dataclass(frozen=True)
class OrdersConfig:
    """What training hides of pictures, of a model of any order; the rest comes first.

    Attributes:
        rectangle: share of pictures of which a rectangle is hidden.
        around: all around one.
        scattered: cells here and there.
        everything: all, which is raster order.
        caption_last: share of captioned pictures whose caption stands behind them, to be read off.
    """

    rectangle: float = 0.4
    around: float = 0.15
    scattered: float = 0.2
    everything: float = 0.25
    caption_last: float = 0.2

    def __post_init__(self) -> None:
        """Refuses what are no shares."""
        if min(self.hidden) < 0 or abs(sum(self.hidden) - 1) > 1e-6:
            raise UserError(
                "orders: expected shares of rectangle, around, scattered and everything that add "
                f"up to 1, got {self.hidden}"
            )
        if not 0 <= self.caption_last <= 1:
            raise UserError(f"orders.caption_last: expected a share, got {self.caption_last}")

    @property
    def hidden(self) -> tuple[float, ...]:
        """The shares of what is hidden."""
        return self.rectangle, self.around, self.scattered, self.everything


def known_first(is_known: Bool[Array, "b l"]) -> Int[Array, "b l"]:
    """Cells with the known ones first, both in raster order."""
    return jnp.argsort(~is_known, axis=1, stable=True)


def random_known(
    key: PRNGKey, batch_size: int, grid_shape: tuple[int, int], config: OrdersConfig
) -> Bool[Array, "b l"]:
    """Cells that training lets a picture's completion see."""

    def one(key: PRNGKey) -> Bool[Array, " l"]:
        kind_key, box_key, share_key, cell_key = jax.random.split(key, 4)
        inside = _rectangle(box_key, grid_shape).reshape(-1)
        share = jax.random.uniform(share_key)
        scattered = jax.random.uniform(cell_key, inside.shape) < share
        kinds = jnp.stack([~inside, inside, scattered, jnp.zeros_like(inside)])
        shares = jnp.asarray(config.hidden)
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

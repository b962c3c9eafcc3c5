"""Rows on the device, each a picture at a token of its own; rows come and go between segments.

A row is a drawing of one picture, with a key-value cache and a length of its own; a table stacks
them, so that a step of all is the step of one under `jax.vmap`. Programs have fixed shapes: tables
of a few sizes, of which rows may be free, and newcomers padded to one of these sizes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.model_config import Generator
from igpt_jax.models.attention import KVCache, grow_kv_cache
from igpt_jax.models.conditioning import Condition
from igpt_jax.models.var import VAR
from igpt_jax.sampling.drawing import Drawing, SamplingParams, advance_rows, begin, cache_sizes
from igpt_jax.typing import Array, Bool, Int, Key, Params


@dataclass(frozen=True)
class Newcomers:
    """Rows that enter, stacked along a first axis.

    Attributes:
        keys: one a picture.
        condition: what is asked.
        negative: what guidance leads away from.
        sampling: how to draw.
        known: tokens `[n l]`, and which of them are kept.
        order: `[n l]`, cells in the order in which they are drawn; None for raster order.
        lead: cache slots before the first cell.
    """

    keys: Key[Array, " n"]
    condition: Condition
    negative: Condition
    sampling: SamplingParams
    known: Any
    order: Int[Array, "n l"] | None
    lead: int


@dataclass(frozen=True)
class Table:
    """A table; what is made from it uses it up.

    Attributes:
        rows: drawings of one picture each, stacked.
        positions: tokens that each row has; 0 where it is free.
        lead: cache slots before the first cell.
        num_slots: room in the caches.
    """

    rows: Drawing
    positions: tuple[int, ...]
    lead: int
    num_slots: int

    @property
    def size(self) -> int:
        """Rows, with those that are free."""
        return len(self.positions)

    @property
    def is_guided(self) -> bool:
        """Whether rows may have guidance."""
        return self.rows.sampling.cfg_scale is not None


def enter(
    gpt: Generator,
    params: Params,
    table: Table | None,
    size: int,
    new: Newcomers,
    places: Sequence[int],
) -> Table:
    """Draws the first token of newcomers, and puts them where rows are free.

    Args:
        gpt: what draws.
        params: its parameters.
        table: who is there; None for nobody.
        size: of a table that is made.
        new: who enters; rows behind the last place are padding.
        places: where to.
    """
    assert not isinstance(gpt, VAR)
    smallest = cache_slots(gpt, new.lead, 1)
    given = new.keys, new.condition, new.sampling, new.known, new.negative, new.order
    drawn = _begin(gpt, params, *given, smallest)
    if table is None:
        table = Table(_room(drawn, size), (0,) * size, new.lead, smallest)
    elif table.num_slots != smallest:
        drawn = dataclasses.replace(drawn, kv_cache=_grow(drawn.kv_cache, table.num_slots))
    table = _with_filters(table, drawn.sampling)
    indices = np.full(len(drawn.position), table.size, np.int32)  # padding is put nowhere
    indices[: len(places)] = places
    positions = list(table.positions)
    for place in places:
        positions[place] = 1
    return dataclasses.replace(
        table, rows=_put(table.rows, drawn, indices), positions=tuple(positions)
    )


def resize(table: Table, kept: Sequence[int], size: int) -> Table:
    """A table of another size with some of the rows, in the order in which they are named."""
    indices = np.zeros(size, np.int32)
    indices[: len(kept)] = kept
    positions = [table.positions[place] for place in kept] + [0] * (size - len(kept))
    return dataclasses.replace(table, rows=_take(table.rows, indices), positions=tuple(positions))


def leave(table: Table, places: Sequence[int]) -> Table:
    """The table with some of its rows free."""
    gone = set(places)
    positions = (0 if i in gone else position for i, position in enumerate(table.positions))
    return dataclasses.replace(table, positions=tuple(positions))


def advance(gpt: Generator, params: Params, table: Table, num_steps: int) -> Table:
    """Draws up to `num_steps` tokens of each row, and waits for them."""
    assert not isinstance(gpt, VAR)
    length = gpt.config.seq_len
    positions = tuple(
        position and min(position + num_steps, length) for position in table.positions
    )
    num_slots = max(table.num_slots, cache_slots(gpt, table.lead, max(positions)))
    kv_cache, rest = table.rows.kv_cache, dataclasses.replace(table.rows, kv_cache=None)
    if num_slots != table.num_slots:
        kv_cache = _grow(kv_cache, num_slots)
    rows = _advance(gpt, params, kv_cache, rest, num_steps, num_slots)
    jax.block_until_ready(rows.position)
    return Table(rows, positions, table.lead, num_slots)


def cache_slots(gpt: Any, lead: int, end: int) -> int:
    """Room for the cache of rows that draw to `end` tokens."""
    sizes = cache_sizes(lead + gpt.config.seq_len - 1)
    return next(size for size in sizes if size >= lead + end - 1)


@jax.jit
def cells(rows: Drawing, indices: Int[Array, " n"]) -> tuple[Int[Array, "n l"], Bool[Array, "n l"]]:
    """Tokens of some rows by their cells, and which are there."""
    some = jax.tree.map(lambda leaf: leaf[indices], dataclasses.replace(rows, kv_cache=None))
    return jax.vmap(lambda row: (row.by_cell[0], row.is_there[0]))(some)


def _with_filters(table: Table, sampling: SamplingParams) -> Table:
    """A table whose rows may have filters of logits, if newcomers do."""
    ours = table.rows.sampling
    if sampling.top_k is None or ours.top_k is not None:
        return table
    shape = ours.temperature.shape
    ours = dataclasses.replace(
        ours, top_k=jnp.zeros(shape, jnp.int32), top_p=jnp.ones(shape, jnp.float32)
    )
    return dataclasses.replace(table, rows=dataclasses.replace(table.rows, sampling=ours))


@partial(jax.jit, static_argnums=(0, 8))
def _begin(
    gpt: Generator,
    params: Params,
    keys: Key[Array, " n"],
    condition: Condition,
    sampling: SamplingParams,
    known: Any,
    negative: Condition,
    order: Int[Array, "n l"] | None,
    num_slots: int,
) -> Drawing:
    assert not isinstance(gpt, VAR)

    def one(*row: Any) -> Drawing:
        key, condition, sampling, known, negative, order = jax.tree.map(lambda x: x[None], row)
        prompt = jnp.zeros((1, 0), jnp.int32)
        given = key, condition, sampling, prompt, known, negative, order, num_slots
        return begin(gpt, params, *given)

    return jax.vmap(one)(keys, condition, sampling, known, negative, order)


@partial(jax.jit, static_argnums=1)
def _grow(kv_cache: KVCache, num_slots: int) -> KVCache:
    return jax.vmap(lambda row: grow_kv_cache(row, num_slots))(kv_cache)


@partial(jax.jit, static_argnums=1)
def _room(drawn: Drawing, size: int) -> Drawing:
    """A table whose rows are all free, and so may hold anything."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], size, axis=0), drawn)


@partial(jax.jit, donate_argnums=0)
def _put(rows: Drawing, new: Drawing, indices: Int[Array, " n"]) -> Drawing:
    return jax.tree.map(lambda old, some: old.at[indices].set(some, mode="drop"), rows, new)


@jax.jit
def _take(rows: Drawing, indices: Int[Array, " n"]) -> Drawing:
    return jax.tree.map(lambda leaf: leaf[indices], rows)


# The caches are the next segment's alone; a copy of them would cost as much as several tokens.
@partial(jax.jit, static_argnums=(0, 4, 5), donate_argnums=2)
def _advance(
    gpt: Generator,
    params: Params,
    kv_cache: KVCache,
    rest: Drawing,
    num_steps: int,
    num_slots: int,
) -> Drawing:
    assert not isinstance(gpt, VAR)
    rows = dataclasses.replace(rest, kv_cache=kv_cache)
    return advance_rows(gpt, params, rows, num_steps, num_slots)

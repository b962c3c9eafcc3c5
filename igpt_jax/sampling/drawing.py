"""Pictures that are being drawn, token by token: what a sampler and a server share.

A server draws a batch in segments, so that between two of them it can show what is there, leave
off what nobody waits for, and answer others.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.models.attention import grow_kv_cache, init_kv_cache
from igpt_jax.models.conditioning import Condition, Conditions, null_condition
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.rar import RAR, RARConfig
from igpt_jax.sampling.logits import draw, guide
from igpt_jax.typing import Array, Bool, Float, Int, Key, Leaf, Params


@flax.struct.dataclass
class SamplingParams:
    """How to draw, one value a row, so that one compiled program serves mixed requests.

    Attributes:
        temperature: float `[b]`; 0 takes the most probable token.
        cfg_scale: float `[b]`, or `[b l]` for one a token; None switches guidance off statically
            (no doubled batch).
        top_k: int `[b]`, tokens to keep, 0 for all; None skips the filter statically.
        top_p: float `[b]`, mass to keep, 1 for all; None skips the filter statically.
    """

    temperature: Leaf
    cfg_scale: Leaf | None = None
    top_k: Leaf | None = None
    top_p: Leaf | None = None


@flax.struct.dataclass
class Drawing:
    """A batch of pictures of which some tokens are drawn.

    Attributes:
        tokens: int `[b s]`, in the order in which they are drawn; those to come are 0.
        position: int `[]`, how many are there.
        kv_cache: of all but the last of them; twice the rows with guidance.
        keys: `[b]`, one a picture.
        sampling: how to draw.
        known: tokens `[b s]` and which of them are kept, or None.
        order: int `[b s]`, cells in the order in which they are drawn; None for raster order.
    """

    tokens: Leaf
    position: Leaf
    kv_cache: Leaf
    keys: Leaf
    sampling: SamplingParams
    known: Leaf | None = None
    order: Leaf | None = None

    @property
    def by_cell(self) -> Int[Array, "b s"]:
        """The tokens by their cells: in raster order, and then of the caption."""
        if self.order is None:
            return self.tokens
        return jnp.take_along_axis(self.tokens, jnp.argsort(self.order, axis=1), axis=1)

    @property
    def is_there(self) -> Bool[Array, "b s"]:
        """Which cells have their tokens."""
        there = jnp.broadcast_to(
            jnp.arange(self.tokens.shape[1]) < self.position, self.tokens.shape
        )
        if self.order is None:
            return there
        return jnp.take_along_axis(there, jnp.argsort(self.order, axis=1), axis=1)


def begin(
    model: GPT | RAR,
    params: Params,
    keys: Key[Array, " b"],
    condition: Condition,
    sampling: SamplingParams,
    prompt: Int[Array, "b p"],
    known: tuple[Int[Array, "b s"], Bool[Array, "b s"]] | None,
    negative: Condition,
    order: Int[Array, "b s"] | None,
    num_slots: int,
) -> Drawing:
    """Reads the condition and the prompt, and draws the first token behind them.

    Args:
        model: the GPT (static).
        params: its parameters.
        keys: one key a picture; row i depends on `keys[i]` alone.
        condition: class ids, features of texts or `Conditions`, None for none.
        sampling: how to draw.
        prompt: the first tokens, kept as they are.
        known: tokens, and which of them are kept as they are wherever they lie.
        negative: what guidance leads away from; None for the null condition.
        order: cells in the order in which they are drawn; None for raster order.
        num_slots: room in the cache.

    Raises:
        UserError: the prompt leaves nothing to draw.
    """
    config, start = model.config, prompt.shape[1]
    if order is None and lead_slots(config, condition) != config.prefix_len:
        order = jnp.tile(jnp.arange(config.seq_len), (len(keys), 1))
    length = config.seq_len if order is None else order.shape[1]
    if start >= length:
        raise UserError(f"prompt: expected fewer than the {length} tokens in all, got {start}")
    fed_prompt = prompt
    if condition is None:
        sampling = dataclasses.replace(sampling, cfg_scale=None)
    if sampling.cfg_scale is not None:
        away = null_condition(condition, config.num_classes) if negative is None else negative
        condition = jax.tree.map(lambda *halves: jnp.concatenate(halves), condition, away)
        fed_prompt = jnp.tile(prompt, (2, 1))
    empty = init_kv_cache(config, len(fed_prompt), num_slots)
    tokens = jnp.pad(prompt, ((0, 0), (0, length - start)))
    drawing = Drawing(tokens, jnp.int32(start), empty, keys, sampling, known, order)
    filled: Any = model.apply(
        {"params": params},
        fed_prompt,
        condition,
        empty,
        method="prefill",
        **_cells(drawing, 0, start),
    )
    logits, kv_cache = filled
    chosen = _choose(drawing, logits, jnp.int32(start))
    return dataclasses.replace(
        drawing,
        tokens=tokens.at[:, start].set(chosen),
        position=jnp.int32(start + 1),
        kv_cache=kv_cache,
    )


def advance(
    model: GPT | RAR,
    params: Params,
    drawing: Drawing,
    start: int | Int[Array, ""],
    end: int | Int[Array, ""],
    num_slots: int,
) -> Drawing:
    """Draws on.

    Args:
        model: the GPT (static).
        params: its parameters.
        drawing: what is there.
        start: its position.
        end: the position to reach. It and `start` may be traced: one program for all segments.
        num_slots: room in the cache, to which it grows.
    """

    def step(position: Int[Array, ""], carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return _draw_one(model, params, drawing, position, *carry)

    grown = grow_kv_cache(drawing.kv_cache, num_slots)
    tokens, kv_cache = jax.lax.fori_loop(start, end, step, (drawing.tokens, grown))
    return dataclasses.replace(
        drawing, tokens=tokens, position=jnp.asarray(end, jnp.int32), kv_cache=kv_cache
    )


def advance_rows(
    model: GPT | RAR, params: Params, rows: Drawing, num_steps: int, num_slots: int
) -> Drawing:
    """Draws on in rows that are at positions of their own; where all is there, nothing changes.

    Args:
        model: the GPT (static).
        params: its parameters.
        rows: drawings of one picture each, stacked along a new first axis.
        num_steps: tokens to draw in each row that lacks as many.
        num_slots: room in the cache of a row, to which it grows.
    """

    def one(row: Drawing) -> Drawing:
        given = model, params, row, row.position, row.tokens, row.kv_cache
        tokens, kv_cache = _draw_one(*given)
        is_missing = row.position < row.tokens.shape[1]
        return dataclasses.replace(
            row,
            tokens=jnp.where(is_missing, tokens, row.tokens),
            position=row.position + is_missing,
            kv_cache=kv_cache,
        )

    grown = jax.vmap(lambda kv_cache: grow_kv_cache(kv_cache, num_slots))(rows.kv_cache)
    rows = dataclasses.replace(rows, kv_cache=grown)
    return jax.lax.scan(lambda rows, _: (jax.vmap(one)(rows), None), rows, length=num_steps)[0]


def _draw_one(
    model: GPT | RAR,
    params: Params,
    drawing: Drawing,
    position: Int[Array, ""],
    tokens: Int[Array, "b s"],
    kv_cache: Any,
) -> tuple[Int[Array, "b s"], Any]:
    """The token at a position of each row, and the cache with the token before it."""
    last = jax.lax.dynamic_index_in_dim(tokens, position - 1, axis=1, keepdims=False)
    fed = last if drawing.sampling.cfg_scale is None else jnp.tile(last, 2)
    logits, kv_cache = model.apply(
        {"params": params},
        fed,
        kv_cache,
        method="decode_step",
        **_cells(drawing, position - 1, 1),
    )
    chosen = _choose(drawing, logits, position)
    return jax.lax.dynamic_update_index_in_dim(tokens, chosen, position, axis=1), kv_cache


def _cells(drawing: Drawing, start: Array | int, length: int) -> dict[str, Any]:
    """The order of some tokens and of the one after them, for models that take it."""
    order = drawing.order
    if order is None:
        return {}
    if drawing.sampling.cfg_scale is not None:
        order = jnp.tile(order, (2, 1))
    return {"order": jax.lax.dynamic_slice_in_dim(order, start, length + 1, axis=1)}


def _choose(
    drawing: Drawing, logits: Float[Array, "rows v"], position: Int[Array, ""]
) -> Int[Array, " b"]:
    keys, sampling, cfg_scale = drawing.keys, drawing.sampling, drawing.sampling.cfg_scale
    if cfg_scale is not None:
        scale = cfg_scale if cfg_scale.ndim == 1 else cfg_scale[:, position]
        logits = guide(logits[: len(keys)], logits[len(keys) :], scale)
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, position)
    tokens = draw(step_keys, logits, sampling.temperature, sampling.top_k, sampling.top_p)
    if drawing.known is None:
        return tokens
    given, is_given = (array[:, position] for array in drawing.known)
    return jnp.where(is_given, given, tokens)


def lead_slots(config: GPTConfig | RARConfig, condition: Condition) -> int:
    """Slots before the first cell that is drawn or known."""
    if isinstance(condition, Conditions) and condition.caption is not None:
        return config.prefix_len + condition.caption.tokens.shape[1]
    return config.prefix_len


def cache_sizes(num_slots: int) -> list[int]:
    """Sizes of the cache, one a stage: at most eight, none shorter than 128 slots.

    It grows in stages, so that early tokens do not read slots that are still empty.
    """
    stage = max(128, math.ceil(num_slots / 8))
    return [*range(stage, num_slots, stage), num_slots]

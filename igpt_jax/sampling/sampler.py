"""The compiled sampler: prefill, then a scan of fixed length over a static key-value cache."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.models.attention import grow_kv_cache, init_kv_cache
from igpt_jax.models.conditioning import Condition, Conditions, null_condition
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.rar import RAR, RARConfig
from igpt_jax.sampling.guidance import GuidanceSchedule, guidance_scales
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


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw, the same for each picture.

    Attributes:
        temperature: 0 takes the most probable token.
        cfg_scale: classifier-free guidance; 1 = off.
        top_k: tokens to keep; 0 = all.
        top_p: mass to keep; 1 = all.
        cfg_schedule: guidance of every token alike, or growing from 1; see `guidance_scales`.
        cfg_power: above 1 it grows later, of the schedule "power_cosine".
        cfg_interval: shares of the tokens between which there is guidance.
    """

    temperature: float = 1.0
    cfg_scale: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    cfg_schedule: GuidanceSchedule = "constant"
    cfg_power: float = 1.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuses settings out of their range."""
        if not 0 <= self.temperature < np.inf:
            raise UserError(f"temperature: expected 0 (greedy) or more, got {self.temperature}")
        if not np.isfinite(self.cfg_scale):
            raise UserError(f"cfg_scale: expected a finite number (1 = off), got {self.cfg_scale}")
        if self.top_k < 0:
            raise UserError(f"top_k: expected 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: expected a share in (0, 1], got {self.top_p}")
        if not 0 < self.cfg_power < np.inf:
            raise UserError(f"cfg_power: expected more than 0, got {self.cfg_power}")
        start, end = self.cfg_interval
        if not 0 <= start <= end <= 1:
            raise UserError(
                f"cfg_interval: expected shares 0 <= start <= end <= 1, got {self.cfg_interval}"
            )

    @property
    def varies(self) -> bool:
        """Whether guidance is not the same at every token."""
        return self.cfg_schedule != "constant" or self.cfg_interval != (0.0, 1.0)

    def rows(self, batch_size: int, num_tokens: int = 0) -> SamplingParams:
        """One value a row; what is off is off statically.

        Args:
            batch_size: rows `b`.
            num_tokens: tokens `l` of a picture, needed where guidance varies.
        """

        def repeat(value: float, dtype: type) -> Array:
            return jnp.full((batch_size,), value, dtype)

        cfg_scale = None
        if self.cfg_scale != 1:
            cfg_scale = repeat(self.cfg_scale, jnp.float32)
            if self.varies:
                assert num_tokens > 0
                scales = guidance_scales(
                    self.cfg_schedule,
                    self.cfg_scale,
                    num_tokens,
                    power=self.cfg_power,
                    interval=self.cfg_interval,
                )
                cfg_scale = jnp.tile(scales, (batch_size, 1))
        return SamplingParams(
            temperature=repeat(self.temperature, jnp.float32),
            cfg_scale=cfg_scale,
            top_k=None if self.top_k == 0 else repeat(self.top_k, jnp.int32),
            top_p=None if self.top_p == 1 else repeat(self.top_p, jnp.float32),
        )


def image_keys(seed: int, indices: Int[np.ndarray, " b"]) -> Key[Array, " b"]:
    """One key a picture, from the seed and the picture's index alone."""
    base = jax.random.key(seed)
    return jax.vmap(lambda index: jax.random.fold_in(base, index))(jnp.asarray(indices))


@partial(jax.jit, static_argnums=0)
def generate(
    model: GPT | RAR,
    params: Params,
    keys: Key[Array, " b"],
    condition: Condition,
    sampling: SamplingParams,
    prompt: Int[Array, "b s"] | None = None,
    known: tuple[Int[Array, "b s_all"], Bool[Array, "b s_all"]] | None = None,
    negative: Condition = None,
    order: Int[Array, "b s_all"] | None = None,
) -> Int[Array, "b s_all"]:
    """Draws whole pictures of tokens, or captions behind them.

    Args:
        model: the GPT (static).
        params: its parameters.
        keys: one key a picture; row i depends on `keys[i]` alone.
        condition: class ids, features of texts or `Conditions`, None for none.
        sampling: how to draw.
        prompt: the first s tokens in raster order, kept as they are; None draws all.
        known: tokens, and which of them are kept as they are wherever they lie. A token that is
            drawn follows those before it in raster order, known or drawn.
        negative: what guidance leads away from; None for the null condition.
        order: cells in the order in which they are drawn, for models of any order; `prompt` and
            `known` are in this order, too. None for raster order. A caption is drawn where its
            cells are among them.

    Returns:
        Tokens by their cells: in raster order, and then of the caption.
    """
    config, batch_size = model.config, keys.shape[0]
    if prompt is None:
        prompt = jnp.zeros((batch_size, 0), jnp.int32)
    lead = _lead_slots(config, condition)
    if order is None and lead != config.prefix_len:
        order = jnp.tile(jnp.arange(config.seq_len), (batch_size, 1))
    fed_prompt, cfg_scale = prompt, None if condition is None else sampling.cfg_scale
    if cfg_scale is not None:
        away = null_condition(condition, config.num_classes) if negative is None else negative
        condition = jax.tree.map(lambda *halves: jnp.concatenate(halves), condition, away)
        fed_prompt = jnp.tile(prompt, (2, 1))
    variables, fed_order = {"params": params}, order
    if order is not None and cfg_scale is not None:
        fed_order = jnp.tile(order, (2, 1))

    def cells(start: Array | int, length: int) -> dict[str, Any]:
        """The order of some tokens and of the one after them, for models that take it."""
        if fed_order is None:
            return {}
        return {"order": jax.lax.dynamic_slice_in_dim(fed_order, start, length + 1, axis=1)}

    def choose(logits: Float[Array, "rows v"], position: Int[Array, ""]) -> Int[Array, " b"]:
        if cfg_scale is not None:
            scale = cfg_scale if cfg_scale.ndim == 1 else cfg_scale[:, position]
            logits = guide(logits[:batch_size], logits[batch_size:], scale)
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, position)
        tokens = draw(step_keys, logits, sampling.temperature, sampling.top_k, sampling.top_p)
        if known is None:
            return tokens
        given, is_given = (array[:, position] for array in known)
        return jnp.where(is_given, given, tokens)

    def step(carry: tuple[Array, Any], position: Int[Array, ""]) -> tuple:
        tokens, kv_cache = carry
        fed = tokens if cfg_scale is None else jnp.tile(tokens, 2)
        logits, kv_cache = model.apply(
            variables, fed, kv_cache, method="decode_step", **cells(position - 1, 1)
        )
        tokens = choose(logits, position)
        return (tokens, kv_cache), tokens

    start, length = prompt.shape[1], config.seq_len if order is None else order.shape[1]
    if start >= length:
        raise UserError(f"prompt: expected fewer than the {length} tokens in all, got {start}")
    # The cache grows in stages, so that early tokens do not read slots that are still empty.
    capacities = [c for c in _capacities(lead + length - 1) if c >= lead + start]
    empty = init_kv_cache(config, fed_prompt.shape[0], capacities[0])
    filled: Any = model.apply(
        variables, fed_prompt, condition, empty, method="prefill", **cells(0, start)
    )
    logits, kv_cache = filled
    tokens = choose(logits, jnp.int32(start))
    drawn, position = [tokens[None]], start + 1
    for capacity in capacities:
        end = capacity - lead + 1
        carry = (tokens, grow_kv_cache(kv_cache, capacity))
        (tokens, kv_cache), part = jax.lax.scan(step, carry, jnp.arange(position, end))
        drawn, position = [*drawn, part], end
    sequence = jnp.concatenate([prompt, jnp.concatenate(drawn).T], axis=1)
    if order is None:
        return sequence
    return jnp.take_along_axis(sequence, jnp.argsort(order, axis=1), axis=1)


def _lead_slots(config: GPTConfig | RARConfig, condition: Condition) -> int:
    """Slots before the first cell that is drawn or known."""
    if isinstance(condition, Conditions) and condition.caption is not None:
        return config.prefix_len + condition.caption.tokens.shape[1]
    return config.prefix_len


def _capacities(num_slots: int) -> list[int]:
    """Sizes of the cache, one a stage: at most eight, none shorter than 128 slots."""
    stage = max(128, math.ceil(num_slots / 8))
    return [*range(stage, num_slots, stage), num_slots]

"""The compiled sampler: prefill, then loops of fixed length over a static key-value cache."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.models.conditioning import Condition
from igpt_jax.models.gpt import GPT
from igpt_jax.models.rar import RAR
from igpt_jax.sampling.drawing import SamplingParams, advance, begin, cache_sizes, lead_slots
from igpt_jax.sampling.guidance import GuidanceSchedule, guidance_scales
from igpt_jax.typing import Array, Bool, Int, Key, Params


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
    lead = lead_slots(model.config, condition)
    if prompt is None:
        prompt = jnp.zeros((len(keys), 0), jnp.int32)
    length, start = model.config.seq_len if order is None else order.shape[1], prompt.shape[1]
    sizes = [size for size in cache_sizes(lead + length - 1) if size >= lead + start] or [0]
    drawing = begin(
        model, params, keys, condition, sampling, prompt, known, negative, order, sizes[0]
    )
    position = start + 1
    for size in sizes:
        end = size - lead + 1
        drawing, position = advance(model, params, drawing, position, end, size), end
    return drawing.by_cell

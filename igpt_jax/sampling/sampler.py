"""The compiled sampler: prefill, then a scan of fixed length over a static key-value cache."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.models.gpt import GPT, init_kv_cache
from igpt_jax.sampling.logits import draw, guide
from igpt_jax.typing import Array, Float, Int, Key, Params, PRNGKey


@flax.struct.dataclass
class SamplingParams:
    """How to draw, one value a row, so that one compiled program serves mixed requests.

    Attributes:
        temperature: 0 takes the most probable token.
        cfg_scale: guidance; None switches it off statically (no second half of the batch).
        top_k: tokens to keep, 0 for all; None skips the filter statically.
        top_p: mass to keep, 1 for all; None skips the filter statically.
    """

    temperature: Float[Array, " b"]
    cfg_scale: Float[Array, " b"] | None = None
    top_k: Int[Array, " b"] | None = None
    top_p: Float[Array, " b"] | None = None


def sampling_params(
    batch_size: int,
    *,
    temperature: float = 1.0,
    cfg_scale: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> SamplingParams:
    """The same settings for each row; what is off is off statically.

    Raises:
        UserError: a setting out of its range.
    """
    if not temperature >= 0:
        raise UserError(f"temperature: expected 0 (greedy) or more, got {temperature}")
    if not np.isfinite(cfg_scale):
        raise UserError(f"cfg_scale: expected a finite number (1 = off), got {cfg_scale}")
    if top_k < 0:
        raise UserError(f"top_k: expected 0 (off) or more, got {top_k}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p: expected a share in (0, 1], got {top_p}")

    def rows(value: float, dtype: type) -> Array:
        return jnp.full((batch_size,), value, dtype)

    return SamplingParams(
        temperature=rows(temperature, jnp.float32),
        cfg_scale=None if cfg_scale == 1 else rows(cfg_scale, jnp.float32),
        top_k=None if top_k == 0 else rows(top_k, jnp.int32),
        top_p=None if top_p == 1 else rows(top_p, jnp.float32),
    )


def image_keys(seed: int, indices: Int[np.ndarray, " b"]) -> Key[Array, " b"]:
    """One key a picture, from the seed and the picture's index alone."""
    base = jax.random.key(seed)
    return jax.vmap(lambda index: jax.random.fold_in(base, index))(jnp.asarray(indices))


@partial(jax.jit, static_argnums=0)
def generate(
    model: GPT,
    params: Params,
    keys: Key[Array, " b"],
    labels: Int[Array, " b"] | None,
    sampling: SamplingParams,
    prompt: Int[Array, "b s"] | None = None,
) -> Int[Array, "b l"]:
    """Draws whole pictures of tokens.

    Args:
        model: the GPT (static).
        params: its parameters.
        keys: one key a picture; row i depends on `keys[i]` alone.
        labels: class ids, None for an unconditional model.
        sampling: how to draw.
        prompt: the first s tokens in raster order, kept as they are; None draws all.

    Returns:
        Tokens in raster order, the prompt first.
    """
    config, batch_size = model.config, keys.shape[0]
    if prompt is None:
        prompt = jnp.zeros((batch_size, 0), jnp.int32)
    guided = sampling.cfg_scale is not None and config.num_classes > 0
    if guided:
        null = jnp.full_like(labels, config.num_classes)
        labels, known = jnp.concatenate([labels, null]), jnp.tile(prompt, (2, 1))
    else:
        known = prompt
    variables = {"params": params}

    def choose(logits: Float[Array, "rows v"], position: Int[Array, ""]) -> Int[Array, " b"]:
        if guided:
            logits = guide(logits[:batch_size], logits[batch_size:], sampling.cfg_scale)
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, position)
        return draw(step_keys, logits, sampling.temperature, sampling.top_k, sampling.top_p)

    def step(carry: tuple[Array, object], position: Int[Array, ""]) -> tuple:
        tokens, kv_cache = carry
        fed = jnp.tile(tokens, 2) if guided else tokens
        logits, kv_cache = model.apply(variables, fed, kv_cache, method=GPT.decode_step)
        tokens = choose(logits, position)
        return (tokens, kv_cache), tokens

    start = prompt.shape[1]
    if start >= config.seq_len:
        raise UserError(
            f"prompt: expected fewer than the {config.seq_len} tokens of a picture, got {start}"
        )
    kv_cache = init_kv_cache(config, known.shape[0])
    logits, kv_cache = model.apply(variables, known, labels, kv_cache, method=GPT.prefill)
    first = choose(logits, jnp.int32(start))
    positions = jnp.arange(start + 1, config.seq_len)
    _, rest = jax.lax.scan(step, (first, kv_cache), positions)
    return jnp.concatenate([prompt, first[:, None], rest.T], axis=1)

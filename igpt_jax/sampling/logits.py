"""Logits policies: pure functions from logits to logits, every parameter one value a row."""

import jax
import jax.numpy as jnp

from igpt_jax.typing import Array, Float, Int, Key

NEG_INF = -jnp.inf


def guide(
    conditional: Float[Array, "b v"],
    unconditional: Float[Array, "b v"],
    cfg_scale: Float[Array, " b"],
) -> Float[Array, "b v"]:
    """Classifier-free guidance: `unconditional + cfg_scale * (conditional - unconditional)`.

    Rows of scale 1 keep the conditional logits bit for bit (Ho & Salimans 2022, equation 6, with
    w = cfg_scale - 1).
    """
    scale = cfg_scale[:, None]
    guided = unconditional + scale * (conditional - unconditional)
    return jnp.where(scale == 1, conditional, guided)


def keep_top_k(logits: Float[Array, "b v"], top_k: Int[Array, " b"]) -> Float[Array, "b v"]:
    """Drops what is below the k-th largest logit of its row; ties with it stay. 0 keeps all."""
    vocab_size = logits.shape[-1]
    descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    last = jnp.where(top_k > 0, jnp.clip(top_k, 1, vocab_size), vocab_size) - 1
    threshold = jnp.take_along_axis(descending, last[:, None], axis=-1)
    return jnp.where(logits >= threshold, logits, NEG_INF)


def keep_top_p(logits: Float[Array, "b v"], top_p: Float[Array, " b"]) -> Float[Array, "b v"]:
    """Nucleus filter (Holtzman et al. 2020, section 3.1).

    Keeps the smallest set of most probable tokens whose mass reaches `top_p`: the token that
    crosses it stays, and so do ties with it. 1 keeps all; the most probable token always stays.
    """
    descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    mass_before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = mass_before < top_p[:, None]
    kept = kept.at[:, 0].set(True)
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    filtered = jnp.where(logits >= threshold, logits, NEG_INF)
    return jnp.where(top_p[:, None] >= 1, logits, filtered)


def draw(
    keys: Key[Array, " b"],
    logits: Float[Array, "b v"],
    temperature: Float[Array, " b"],
    top_k: Int[Array, " b"] | None = None,
    top_p: Float[Array, " b"] | None = None,
) -> Int[Array, " b"]:
    """Draws one token a row: temperature, then top-k, then top-p, then categorical.

    Temperature 0 takes the most probable token. `top_k` or `top_p` None skips its sort.
    """
    greedy = jnp.argmax(logits, axis=-1)
    logits = logits / jnp.where(temperature > 0, temperature, 1)[:, None]
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    drawn = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)

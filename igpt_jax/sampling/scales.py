"""The compiled sampler of VAR: one step a scale, over a static key-value cache.

There is no prompt: a picture is drawn from its class alone (see `igpt_jax.models.var`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.var import VAR, VARConfig
from igpt_jax.sampling.drawing import SamplingParams
from igpt_jax.sampling.logits import draw, guide
from igpt_jax.scales import scale_bounds
from igpt_jax.tokenizers.multiscale_vq import MultiscaleVQ, MultiscaleVQConfig
from igpt_jax.typing import Array, Float, Int, Key, Params


@partial(jax.jit, static_argnums=(0, 2))
def generate_scales(
    model: VAR,
    params: Params,
    tokenizer: MultiscaleVQ,
    tokenizer_params: Params,
    keys: Key[Array, " b"],
    labels: Int[Array, " b"],
    sampling: SamplingParams,
    negative: Int[Array, " b"] | None = None,
) -> Int[Array, "b l"]:
    """Draws whole pictures of tokens, scale by scale (Tian et al. 2024, section 3.2).

    Guidance grows from none at the first scale to `cfg_scale` at the last: scale k of K has
    `1 + (cfg_scale - 1) * k / (K - 1)`; `cfg_power` does not matter. The published code has
    `cfg = cfg_scale - 1`: its 1.5 is 2.5 here. Its `top_p` of 0 (keep all) is 1 here; else both
    keep the same tokens, but for those exactly as likely as the last one kept, which all stay here
    and are cut by their order there. It has no temperature, which is 1 here.

    Args:
        model: the Transformer (static).
        params: its parameters.
        tokenizer: the tokenizer that it was trained with (static); it makes the next inputs.
        tokenizer_params: its parameters.
        keys: one key a picture; row i depends on `keys[i]` alone.
        labels: class ids.
        sampling: how to draw.
        negative: class ids that guidance leads away from; None for the null condition.

    Returns:
        Tokens coarse to fine, for `tokenizer.decode`.
    """
    scales, batch_size = model.config.scales, keys.shape[0]
    _check_tokenizer(model.config, tokenizer.config)
    cfg_scale, fed_labels = sampling.cfg_scale, labels
    if cfg_scale is not None:
        null = jnp.full_like(labels, model.config.num_classes)
        fed_labels = jnp.concatenate([labels, null if negative is None else negative])
    look: Any = partial(tokenizer.apply, {"params": tokenizer_params})
    inputs, drawn = None, []
    kv_cache = init_kv_cache(model.config, len(fed_labels))
    total = jnp.zeros((), jnp.float32)
    for index, (start, _) in enumerate(scale_bounds(scales)):
        output: Any = model.apply(
            {"params": params}, inputs, fed_labels, kv_cache, index, method=VAR.decode_step
        )
        logits, kv_cache = output
        if cfg_scale is not None:
            strength = 1 + (cfg_scale - 1) * (index / (len(scales) - 1))
            logits = jax.vmap(guide, in_axes=(1, 1, None), out_axes=1)(
                logits[:batch_size], logits[batch_size:], strength
            )
        tokens = _draw_scale(keys, logits, start, sampling)
        drawn.append(tokens)
        if index + 1 < len(scales):
            total = total + look(tokens, index, method="detail")
            inputs = look(total, index + 1, method="next_input")
            inputs = inputs if cfg_scale is None else jnp.tile(inputs, (2, 1, 1))
    return jnp.concatenate(drawn, axis=1)


def _check_tokenizer(config: VARConfig, tokenizer: MultiscaleVQConfig) -> None:
    wanted = (config.scales, config.vocab_size, config.code_dim)
    given = (tokenizer.scales, tokenizer.codebook_size, tokenizer.latent_channels)
    if wanted != given:
        raise UserError(
            "generate_scales: expected the tokenizer that the model was trained with, of scales, "
            f"codebook size and channels {wanted}, got {given}"
        )


def _draw_scale(
    keys: Key[Array, " b"],
    logits: Float[Array, "b q v"],
    start: int,
    sampling: SamplingParams,
) -> Int[Array, "b q"]:
    """Draws the tokens from `start` on, each with a key of its own."""
    positions = start + jnp.arange(logits.shape[1])
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    token_keys = jax.vmap(fold, in_axes=(None, 0))(keys, positions)
    draw_all = jax.vmap(draw, in_axes=(0, 1, None, None, None), out_axes=1)
    return draw_all(token_keys, logits, sampling.temperature, sampling.top_k, sampling.top_p)

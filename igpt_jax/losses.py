"""The GPT's loss and what is reported of it."""

import math

import jax
import jax.numpy as jnp

from igpt_jax.typing import Array, Float, Int


def token_nll(logits: Float[Array, "b l v"], tokens: Int[Array, "b l"]) -> Float[Array, "b l"]:
    """Negative log-likelihood of each token in nats, in float32.

    Of logits whose vocabulary lies on several devices, three numbers a token travel: the largest,
    the sum and the token's own.
    """
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def bits_per_dim(
    nats_per_token: Float[Array, ""], num_tokens: int, num_sub_pixels: int
) -> Float[Array, ""]:
    """Bits of the tokens over the sub-pixels (h * w * 3) of a picture, or of all frames.

    A likelihood of pixels only where the tokenizer loses nothing; else of its reconstruction.
    """
    return nats_per_token * num_tokens / math.log(2) / num_sub_pixels

"""Start a codebook and measure how it is used.

Pure functions: training calls `start_codebook` once, before the first step, so that `params` stays
the only collection of the model.
"""

from typing import cast

import jax
import jax.numpy as jnp

from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.kmeans import kmeans
from igpt_jax.tokenizers.quantizers import (
    MovingAverageQuantizerConfig,
    Quantized,
    QuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
    build_quantizer,
)
from igpt_jax.tokenizers.quantizers.base import l2_normalized
from igpt_jax.typing import Array, Float, Int, Params, PRNGKey


def init_codebook(
    latents: Float[Array, "*n d"],
    key: PRNGKey,
    *,
    codebook_size: int,
    l2_normalize: bool = False,
    num_iterations: int = 10,
) -> Float[Array, "codebook_size d"]:
    """Start a codebook as the k-means centres of latents, so that every code is near some.

    Args:
        latents: encoder outputs of a few batches; more of them than codes.
        key: decides the k-means start.
        codebook_size: number of codes.
        l2_normalize: whether the quantizer compares directions.
        num_iterations: Lloyd iterations.
    """
    points = latents.reshape(-1, latents.shape[-1])
    points = l2_normalized(points) if l2_normalize else points
    centers = kmeans(points, key, num_clusters=codebook_size, num_iterations=num_iterations).centers
    return l2_normalized(centers) if l2_normalize else centers


def token_counts(tokens: Int[Array, "*n"], codebook_size: int) -> Float[Array, " codebook_size"]:
    """Count how often each token occurs."""
    flat = tokens.reshape(-1)
    return jax.ops.segment_sum(jnp.ones_like(flat, jnp.float32), flat, codebook_size)


def codebook_usage(shares: Float[Array, "*n v"]) -> Float[Array, "*n"]:
    """Return the share of codes that occur, from 0 to 1, of the shares of each token."""
    return jnp.mean(shares > 0, axis=-1, dtype=jnp.float32)


def marginal_entropy(shares: Float[Array, "*n v"]) -> Float[Array, "*n"]:
    """Return the entropy in nats of the shares of each token.

    It is the loss of a model that knows only how often each token occurs.
    """
    return jnp.sum(jax.scipy.special.entr(shares), axis=-1)


def perplexity(shares: Float[Array, "*n v"]) -> Float[Array, "*n"]:
    """Return exp of the marginal entropy: as many equally frequent codes carry as much."""
    return jnp.exp(marginal_entropy(shares))


def start_codebook(
    model: Autoencoder, params: Params, latents: Float[Array, "*n d"], key: PRNGKey
) -> Params:
    """Return `params` with the codebook started from latents.

    Args:
        model: the tokenizer; one without a codebook keeps its parameters.
        params: its parameters.
        latents: of pictures; two or more a code, or codes start as twins.
        key: decides the k-means start.
    """
    if "quantizer" not in params:
        return params
    started = start_quantizer(model.config.quantizer, params["quantizer"], latents, key)
    return {**params, "quantizer": started}


def start_quantizer(
    config: QuantizerConfig, params: Params, latents: Float[Array, "*n d"], key: PRNGKey
) -> Params:
    """Return a quantizer's parameters with its codebooks started from latents.

    Args:
        config: the quantizer; one that chooses codes by logits keeps its parameters.
        params: its parameters.
        latents: what it will quantize.
        key: decides the k-means start.
    """
    match config:
        case VectorQuantizerConfig() | MovingAverageQuantizerConfig():
            codebook = init_codebook(
                latents,
                key,
                codebook_size=config.codebook_size,
                l2_normalize=config.l2_normalize,
            )
            if isinstance(config, VectorQuantizerConfig):
                return {"codebook": codebook}
            shares = jnp.full((config.codebook_size,), 1.0 / config.codebook_size)
            return {"running_share": shares, "running_sum": codebook * shares[:, None]}
        case ResidualQuantizerConfig(num_levels, codebook):
            started, residual = {}, latents
            level = build_quantizer(codebook)
            for index in range(num_levels):
                name = f"levels_{index}"
                level_key = jax.random.fold_in(key, index)
                started[name] = start_quantizer(codebook, params[name], residual, level_key)
                variables = {"params": started[name]}
                tokens = cast(Quantized, level.apply(variables, residual)).tokens
                residual = residual - cast(Array, level.apply(variables, tokens, method="lookup"))
            return started
        case _:
            return params

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
    FiniteScalarQuantizerConfig,
    VectorQuantizerConfig,
    l2_normalized,
)
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


def codebook_usage(tokens: Int[Array, "*n"], codebook_size: int) -> Float[Array, ""]:
    """Return the share of codes that occur among the tokens, from 0 to 1."""
    return jnp.mean((token_counts(tokens, codebook_size) > 0).astype(jnp.float32))


def marginal_entropy(tokens: Int[Array, "*n"], codebook_size: int) -> Float[Array, ""]:
    """Return the entropy of the tokens' frequencies, in nats."""
    counts = token_counts(tokens, codebook_size)
    frequencies = counts / jnp.maximum(jnp.sum(counts), 1.0)
    return jnp.sum(jax.scipy.special.entr(frequencies))


def perplexity(tokens: Int[Array, "*n"], codebook_size: int) -> Float[Array, ""]:
    """Return exp of the marginal entropy: as many equally frequent codes carry as much."""
    return jnp.exp(marginal_entropy(tokens, codebook_size))


def start_codebook(
    model: Autoencoder, params: Params, images: Float[Array, "b h w 3"], key: PRNGKey
) -> Params:
    """Return `params` with the codebook started from the latents of images.

    Args:
        model: the tokenizer; one without a codebook keeps its parameters.
        params: its parameters.
        images: in [-1, 1]; two or more latents a code, or codes start as twins.
        key: decides the k-means start.
    """
    match model.config.quantizer:
        case VectorQuantizerConfig(codebook_size, _, l2_normalize):
            latents = cast(Array, model.apply({"params": params}, images, method="latents"))
            codebook = init_codebook(
                latents, key, codebook_size=codebook_size, l2_normalize=l2_normalize
            )
            return {**params, "quantizer": {"codebook": codebook}}
        case FiniteScalarQuantizerConfig():
            return params

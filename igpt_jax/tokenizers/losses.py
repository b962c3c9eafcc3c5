"""What training an image tokenizer minimises, term by term."""

from dataclasses import dataclass
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp

from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderOutput
from igpt_jax.tokenizers.codebook import codebook_usage, perplexity
from igpt_jax.typing import Array, Float, Params, PRNGKey

Metrics: TypeAlias = dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms; a term with weight 0 is still reported.

    Attributes:
        l1_weight: weight of the mean absolute error (VQGAN's).
        l2_weight: weight of the mean squared error (LlamaGen's).
        codebook_weight: weight of the codebook loss.
        commitment_weight: beta (van den Oord et al. 2017, section 3.2).
    """

    l1_weight: float = 0.0
    l2_weight: float = 1.0
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25  # results do not change from 0.1 to 2.0, says the paper


def psnr(
    images: Float[Array, "b h w 3"], reconstruction: Float[Array, "b h w 3"]
) -> Float[Array, ""]:
    """Return the peak signal-to-noise ratio in dB, the mean over images, of pixels in [-1, 1]."""
    clipped = jnp.clip(reconstruction, -1.0, 1.0)
    mean_squared_error = jnp.mean((images - clipped) ** 2, axis=(1, 2, 3))
    peak_squared = 4.0
    return jnp.mean(10.0 * jnp.log10(peak_squared / jnp.maximum(mean_squared_error, 1e-10)))


def autoencoder_loss(
    model: Autoencoder,
    params: Params,
    images: Float[Array, "b h w 3"],
    config: AutoencoderLossConfig = AutoencoderLossConfig(),
    *,
    dropout_key: PRNGKey | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of one batch and its parts.

    Args:
        model: the tokenizer.
        params: its parameters.
        images: pixels in [-1, 1].
        config: weights of the terms.
        dropout_key: switches dropout on; `None` is deterministic.

    Returns:
        The weighted sum of the terms, and every term (unweighted) beside `psnr` [dB],
        `codebook_usage` [0..1] and `perplexity` of the batch's tokens.
    """
    output = cast(
        AutoencoderOutput,
        model.apply(
            {"params": params},
            images,
            deterministic=dropout_key is None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        ),
    )
    error = output.reconstruction - images
    terms = {
        "l1": jnp.mean(jnp.abs(error)),
        "l2": jnp.mean(error**2),
        "codebook": output.codebook_loss,
        "commitment": output.commitment_loss,
    }
    weights = {
        "l1": config.l1_weight,
        "l2": config.l2_weight,
        "codebook": config.codebook_weight,
        "commitment": config.commitment_weight,
    }
    loss = jnp.asarray(sum(weights[name] * term for name, term in terms.items()))
    metrics = {f"{name}_loss": term for name, term in terms.items()} | {
        "loss": loss,
        "psnr": psnr(images, output.reconstruction),
        "codebook_usage": codebook_usage(output.tokens, model.vocab_size),
        "perplexity": perplexity(output.tokens, model.vocab_size),
    }
    return loss, jax.lax.stop_gradient(metrics)

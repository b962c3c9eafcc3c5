"""What training an image tokenizer minimises, term by term."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.similarity import psnr
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderOutput
from igpt_jax.tokenizers.codebook import codebook_usage, perplexity, token_counts
from igpt_jax.tokenizers.perceptual import laplacian_pyramid_loss
from igpt_jax.typing import Array, Float, Params, PRNGKey

Metrics: TypeAlias = dict[str, Float[Array, "..."]]

Distance: TypeAlias = Callable[[Array, Array], Array]
"""A perceptual distance: two batches `[b h w 3]` in [-1, 1] -> `[b]`."""


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the terms; a quantizer that does not have a term ignores its weight.

    Attributes:
        l1_weight: weight of the mean absolute error (VQGAN's).
        l2_weight: weight of the mean squared error (LlamaGen's).
        perceptual_weight: weight of the perceptual distance; 0 does not compute it.
        lpips_path: weights of LPIPS' VGG16, a file or hub:ORG/NAME/FILE; without it the perceptual
            distance is that of Laplacian pyramids, which needs no weights.
        lpips_linear_path: weights of its linear layers, where the first file has none.
        codebook_weight: weight of the codebook loss.
        commitment_weight: beta (van den Oord et al. 2017, section 3.2).
        entropy_weight: of quantizers with an entropy loss (Yu et al. 2024, equation 4).
        kl_weight: of the Gumbel quantizer's divergence from equal frequencies.
        compat: `taming-legacy` swaps the codebook's and the commitment's weight, as the released
            VQGAN models were trained by mistake.
    """

    l1_weight: float = 0.0
    l2_weight: float = 1.0
    perceptual_weight: float = 0.0
    lpips_path: str | None = None
    lpips_linear_path: str | None = None
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25  # results do not change from 0.1 to 2.0, says the paper
    entropy_weight: float = 0.05
    kl_weight: float = 5e-4
    compat: Literal["none", "taming-legacy"] = "none"

    def __post_init__(self) -> None:
        """Refuse what nothing can be learned from."""
        if not self.l1_weight + self.l2_weight + self.perceptual_weight > 0:
            raise UserError(
                "tokenizer_loss: expected l1_weight, l2_weight or perceptual_weight above 0, got "
                "0 for all; set l2_weight to 1"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term."""
        codebook, commitment = self.codebook_weight, self.commitment_weight
        if self.compat == "taming-legacy":
            codebook, commitment = commitment, codebook
        return {
            "l1": self.l1_weight,
            "l2": self.l2_weight,
            "perceptual": self.perceptual_weight,
            "codebook": codebook,
            "commitment": commitment,
            "entropy": self.entropy_weight,
            "kl": self.kl_weight,
            "running": 1.0,  # of value 0: it moves statistics, see `igpt_jax/running.py`
        }


def frames(images: Float[Array, "b *t h w c"]) -> Float[Array, "n h w c"]:
    """Return the frames of videos as one batch of images."""
    return images.reshape(-1, *images.shape[-3:])


def weighted_sum(
    terms: dict[str, Float[Array, ""]], config: AutoencoderLossConfig
) -> Float[Array, ""]:
    """Return the sum of the terms times their weights."""
    weighted = (config.weights[name] * term for name, term in terms.items())
    return sum(weighted, start=jnp.zeros(()))


def reconstruction_terms(
    images: Float[Array, "b *t h w 3"],
    reconstruction: Float[Array, "b *t h w 3"],
    config: AutoencoderLossConfig,
    distance: Distance = laplacian_pyramid_loss,
) -> Metrics:
    """Return the terms that compare pictures, unweighted.

    Args:
        images: pixels in [-1, 1].
        reconstruction: the decoder's output, not clipped.
        config: says whether the perceptual term is wanted.
        distance: perceptual distance.
    """
    error = reconstruction - images
    terms = {"l1": jnp.mean(jnp.abs(error)), "l2": jnp.mean(error**2)}
    if config.perceptual_weight:
        terms["perceptual"] = jnp.mean(distance(frames(images), frames(reconstruction)))
    return terms


def run_autoencoder(
    model: Autoencoder, params: Params, images: Float[Array, "b *t h w 3"], key: PRNGKey | None
) -> AutoencoderOutput:
    """Run a tokenizer on images; a key switches on dropout and moving codebooks."""
    return cast(
        AutoencoderOutput,
        model.apply(
            {"params": params},
            images,
            deterministic=key is None,
            rngs=None if key is None else random_streams(key),
        ),
    )


def random_streams(key: PRNGKey) -> dict[str, PRNGKey]:
    """Return the keys of what is random while training."""
    dropout_key, quantizer_key = jax.random.split(key)
    return {"dropout": dropout_key, "quantizer": quantizer_key}


def describe(
    model: Autoencoder, images: Float[Array, "b *t h w 3"], output: AutoencoderOutput
) -> Metrics:
    """Return `psnr` [dB] and `token_shares` [levels v], how often each token occurs at a level."""
    levels = output.tokens.reshape(-1, model.config.num_levels).T
    counts = jnp.stack([token_counts(level, model.vocab_size) for level in levels])
    return {
        "psnr": jnp.mean(psnr(frames(images), frames(output.reconstruction))),
        "token_shares": counts / levels.shape[1],
    }


def summarize(metrics: Metrics) -> Metrics:
    """Return metrics with `codebook_usage` [0..1] and `perplexity` in place of `token_shares`.

    Shares may be averaged over parts of a batch before, usage may not. Of several levels both are
    the mean.
    """
    shares = metrics["token_shares"]
    return {name: value for name, value in metrics.items() if name != "token_shares"} | {
        "codebook_usage": jnp.mean(codebook_usage(shares)),
        "perplexity": jnp.mean(perplexity(shares)),
    }


def term_metrics(terms: Metrics) -> Metrics:
    """Return the terms by the names that are logged."""
    return {f"{name}_loss": term for name, term in terms.items() if name != "running"}


def autoencoder_loss(
    model: Autoencoder,
    params: Params,
    images: Float[Array, "b *t h w 3"],
    config: AutoencoderLossConfig = AutoencoderLossConfig(),
    *,
    key: PRNGKey | None = None,
    distance: Distance = laplacian_pyramid_loss,
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of one batch and its parts.

    Args:
        model: the tokenizer.
        params: its parameters.
        images: pixels in [-1, 1].
        config: weights of the terms.
        key: switches on what happens in training only: dropout, moving and drawn codes.
        distance: perceptual distance.

    Returns:
        The weighted sum of the terms, and every term (unweighted) beside `psnr` [dB] and the
        batch's `token_shares` (see `summarize`).
    """
    output = run_autoencoder(model, params, images, key)
    terms = reconstruction_terms(images, output.reconstruction, config, distance) | output.losses
    loss = weighted_sum(terms, config)
    metrics = term_metrics(terms) | {"loss": loss} | describe(model, images, output)
    return loss, jax.lax.stop_gradient(metrics)

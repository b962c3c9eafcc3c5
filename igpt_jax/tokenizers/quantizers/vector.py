"""Vector quantization: the nearest code of a codebook that learns by gradients."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.tokenizers.quantizers.base import (
    GradientName,
    Quantized,
    check_codebook,
    l2_normalized,
    pass_gradient,
    squared_distance,
)
from igpt_jax.tokenizers.quantizers.entropy import (
    check_temperature,
    code_affinity,
    entropy_loss,
)
from igpt_jax.typing import Array, Float, Int, PRNGKey


@dataclass(frozen=True)
class VectorQuantizerConfig:
    """A learned codebook.

    Attributes:
        codebook_size: number of codes.
        code_dim: dimensions of a code.
        l2_normalize: compare directions instead of vectors (Yu et al. 2022, section 3.2).
        gradient: how the decoder's gradient reaches the encoder.
        entropy_temperature: of the soft assignments that the entropy loss looks at; `None` leaves
            the loss out, for it needs a distance of every latent to every code.
    """

    codebook_size: int = 16_384
    code_dim: int = 8
    l2_normalize: bool = True
    gradient: GradientName = "straight_through"
    entropy_temperature: float | None = None

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.code_dim)
        check_temperature(self.entropy_temperature)


def uniform_codebook(key: PRNGKey, shape: tuple[int, int], dtype: Dtype) -> Float[Array, "v d"]:
    """Start a codebook as published: uniform in +-1 / codebook_size."""
    bound = 1.0 / shape[0]
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class VectorQuantizer(nn.Module):
    """The nearest code of a learned codebook (van den Oord et al. 2017, section 3).

    Attributes:
        config: size of the codebook and how to compare with it.
        param_dtype: dtype of the codebook; the arithmetic is always float32.
    """

    config: VectorQuantizerConfig
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the codebook."""
        shape = (self.config.codebook_size, self.config.code_dim)
        self.codebook = self.param("codebook", uniform_codebook, shape, self.param_dtype)

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents.

        The codebook loss moves codes only, the commitment loss the encoder only; neither is
        weighted here (published: 1 and beta = 0.25).
        """
        config, codes = self.config, self._codes()
        latents = latents.astype(jnp.float32)
        if config.l2_normalize:
            latents = l2_normalized(latents)
        tokens = nearest(jax.lax.stop_gradient(latents), jax.lax.stop_gradient(codes))
        quantized = codes[tokens]
        losses = {
            "codebook": squared_distance(quantized, latents),
            "commitment": squared_distance(latents, quantized),
        }
        if config.entropy_temperature is not None:
            losses["entropy"] = entropy_loss(
                code_affinity(latents, codes, config.entropy_temperature)
            )
        return Quantized(pass_gradient(latents, quantized, config.gradient), tokens, losses)

    def lookup(self, tokens: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        return self._codes()[tokens]

    def _codes(self) -> Float[Array, "v d"]:
        codebook = self.codebook.astype(jnp.float32)
        return l2_normalized(codebook) if self.config.l2_normalize else codebook

"""Residual quantization: each level quantizes what the levels before it left over."""

from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.quantizers.base import Quantized, pass_gradient
from igpt_jax.tokenizers.quantizers.moving_average import (
    MovingAverageQuantizer,
    MovingAverageQuantizerConfig,
)
from igpt_jax.tokenizers.quantizers.vector import VectorQuantizer, VectorQuantizerConfig
from igpt_jax.typing import Array, Float, Int

CodebookConfig = VectorQuantizerConfig | MovingAverageQuantizerConfig


@dataclass(frozen=True)
class ResidualQuantizerConfig:
    """Several codebooks one after another (Lee et al. 2022, section 3.1.1).

    Attributes:
        num_levels: tokens a position, coarse to fine.
        codebook: each level's codebook; not `l2_normalize`, as residuals shrink.
    """

    num_levels: int = 4
    codebook: CodebookConfig = field(
        default_factory=lambda: MovingAverageQuantizerConfig(codebook_size=1_024, code_dim=8)
    )

    def __post_init__(self) -> None:
        if self.num_levels < 1 or self.codebook.l2_normalize:
            raise UserError(
                "expected num_levels >= 1 and a codebook without l2_normalize, got "
                f"{self.num_levels} and l2_normalize={self.codebook.l2_normalize}; change them"
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes of each level."""
        return self.codebook.codebook_size

    @property
    def code_dim(self) -> int:
        """Dimensions of a code."""
        return self.codebook.code_dim


class ResidualQuantizer(nn.Module):
    """A sum of codes, one a level; tokens are `[*n num_levels]`.

    Attributes:
        config: levels and their codebook.
    """

    config: ResidualQuantizerConfig

    def setup(self) -> None:
        """Declare the codebooks."""
        self.levels = [self._level() for _ in range(self.config.num_levels)]

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents; each loss is the mean over the levels."""
        latents = latents.astype(jnp.float32)
        residual, total, tokens, losses = latents, jnp.zeros_like(latents), [], []
        for level in self.levels:
            result = level(residual, deterministic=deterministic)
            code = jax.lax.stop_gradient(level.lookup(result.tokens))
            residual, total = residual - code, total + code
            tokens.append(result.tokens)
            losses.append(result.losses)
        means = {name: jnp.stack([part[name] for part in losses]).mean() for name in losses[0]}
        if "running" in means:
            means["running"] *= self.config.num_levels
        total = pass_gradient(latents, total, self.config.codebook.gradient)
        return Quantized(total, jnp.stack(tokens, axis=-1), means)

    def lookup(self, tokens: Int[Array, "*n k"]) -> Float[Array, "*n d"]:
        """Return the sums of codes of tokens; the first k levels alone give a coarser result."""
        used = zip(self.levels[: tokens.shape[-1]], jnp.moveaxis(tokens, -1, 0), strict=True)
        return jnp.sum(jnp.stack([level.lookup(ids) for level, ids in used]), axis=0)

    def _level(self) -> VectorQuantizer | MovingAverageQuantizer:
        match self.config.codebook:
            case VectorQuantizerConfig() as config:
                return VectorQuantizer(config)
            case MovingAverageQuantizerConfig() as config:
                return MovingAverageQuantizer(config)

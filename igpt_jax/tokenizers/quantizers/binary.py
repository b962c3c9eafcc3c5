"""Look-up free and binary spherical quantization: one bit a dimension, no codebook."""

import itertools
import math
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.quantizers.base import (
    Quantized,
    l2_normalized,
    squared_distance,
    straight_through,
)
from igpt_jax.tokenizers.quantizers.entropy import code_affinity, entropy_loss
from igpt_jax.typing import Array, Float, Int

GROUP_BITS = 10  # bits whose joint entropy is exact: 1024 soft assignments a latent


@dataclass(frozen=True)
class BinaryQuantizerConfig:
    """One bit a dimension.

    Attributes:
        num_bits: dimensions; 2 ** num_bits codes.
        spherical: BSQ, latents and codes of length one (Zhao et al. 2024, section 4.1), instead of
            LFQ, codes of +-1 (Yu et al. 2024, section 3.1).
        temperature: of the soft assignments that the entropy loss looks at; `None` is 1 for LFQ
            and 0.1 for BSQ, whose latents have length one.
    """

    num_bits: int = 10
    spherical: bool = False
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_bits <= 30:
            raise UserError(
                f"num_bits: expected 1 to 30, as tokens are int32, got {self.num_bits}; try 10"
            )
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"temperature: expected more than 0, got {self.temperature}; try 1.0")

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return 2**self.num_bits

    @property
    def code_dim(self) -> int:
        """Dimensions of a code."""
        return self.num_bits

    @property
    def entropy_temperature(self) -> float:
        """The temperature, or its default."""
        return self.temperature or (0.1 if self.spherical else 1.0)

    @property
    def unit(self) -> float:
        """Distance of a code from zero along each dimension."""
        return 1.0 / math.sqrt(self.num_bits) if self.spherical else 1.0


class BinaryQuantizer(nn.Module):
    """The sign of every dimension; the first dimension is the lowest bit of the token.

    It has no parameters. Without the entropy loss most codes stay unused.

    Attributes:
        config: number of bits.
    """

    config: BinaryQuantizerConfig

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents; zero counts as negative."""
        config = self.config
        latents = latents.astype(jnp.float32)
        if config.spherical:
            latents = l2_normalized(latents)
        bits = latents > 0
        codes = jnp.where(bits, config.unit, -config.unit)
        tokens = jnp.sum(bits << jnp.arange(config.num_bits), axis=-1, dtype=jnp.int32)
        losses = {
            "commitment": squared_distance(latents, codes),
            "entropy": self._entropy(latents),
        }
        return Quantized(straight_through(latents, codes), tokens, losses)

    def lookup(self, tokens: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        bits = tokens[..., None] >> jnp.arange(self.config.num_bits) & 1
        return (2.0 * bits - 1.0) * self.config.unit

    def _entropy(self, latents: Float[Array, "*n d"]) -> Float[Array, ""]:
        """Return the entropy loss, summed over groups of bits.

        Bits are independent given the latent, so the entropy of one assignment is exact; that of
        the mean counts dependence within a group only (Zhao et al. 2024, section 4.2).
        """
        total = jnp.zeros(())
        for start in range(0, self.config.num_bits, GROUP_BITS):
            part = latents[..., start : start + GROUP_BITS]
            corners = np.asarray(list(itertools.product((-1.0, 1.0), repeat=part.shape[-1])))
            codes = jnp.asarray(corners * self.config.unit, jnp.float32)
            total += entropy_loss(code_affinity(part, codes, self.config.entropy_temperature))
        return total

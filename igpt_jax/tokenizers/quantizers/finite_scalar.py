"""Finite scalar quantization: a fixed grid of codes."""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.quantizers.base import Quantized, straight_through
from igpt_jax.tokenizers.quantizers.entropy import (
    check_temperature,
    code_affinity,
    entropy_loss,
)
from igpt_jax.typing import Array, Float, Int


@dataclass(frozen=True)
class FiniteScalarQuantizerConfig:
    """A fixed grid of codes, nothing to train.

    Attributes:
        levels: number of values of each dimension; their product is the number of codes.
        entropy_temperature: of the soft assignments that the entropy loss looks at, to bring more
            codes into use than the encoder does by itself; `None`, as published, is without.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)
    entropy_temperature: float | None = None

    def __post_init__(self) -> None:
        check_temperature(self.entropy_temperature)
        if not self.levels or min(self.levels) < 2:
            raise UserError(
                f"expected one or more levels, each >= 2, got {self.levels}; try (8, 5, 5, 5)"
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def code_dim(self) -> int:
        """Dimensions of a code."""
        return len(self.levels)


class FiniteScalarQuantizer(nn.Module):
    """Bound every dimension and round it to a few levels (FSQ, Mentzer et al. 2023, section 3.1).

    Codes lie in [-1, 1]; the first dimension varies fastest with the token. It has no parameters
    and, but for the entropy, no loss of its own.

    Attributes:
        config: the levels.
        epsilon: how far beyond the outermost levels the bound lies, so that both can be reached.
    """

    config: FiniteScalarQuantizerConfig
    epsilon: float = 1e-3

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents."""
        bounded = self._bound(latents.astype(jnp.float32))
        rounded = straight_through(bounded, jnp.round(bounded))
        losses = {}
        if self.config.entropy_temperature is not None:
            codes = self.lookup(jnp.arange(self.config.codebook_size))
            points = bounded / self._half_width()
            affinity = code_affinity(points, codes, self.config.entropy_temperature)
            losses["entropy"] = entropy_loss(affinity)
        return Quantized(rounded / self._half_width(), self._tokens(rounded), losses)

    def lookup(self, tokens: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        digits = tokens[..., None] // self._basis() % jnp.asarray(self.config.levels)
        return (digits - self._half_width()) / self._half_width()

    def _bound(self, latents: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Squash each dimension to the range that rounds to exactly its levels.

        An even number of levels has no middle: the range is moved down by a half, and the input
        by as much as keeps zero at zero. (The paper's appendix writes tan for that inverse.)
        """
        levels = np.asarray(self.config.levels)
        half_range = (levels - 1) * (1 + self.epsilon) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0)
        shift = np.arctanh(offset / half_range).astype(np.float32)
        squashed = jnp.tanh(latents + shift) * half_range.astype(np.float32)
        return squashed - offset.astype(np.float32)

    def _tokens(self, rounded: Float[Array, "*n d"]) -> Int[Array, "*n"]:
        digits = jnp.round(rounded).astype(jnp.int32) + self._half_width()
        return jnp.sum(digits * self._basis(), axis=-1).astype(jnp.int32)

    def _half_width(self) -> np.ndarray:
        return np.asarray(self.config.levels, np.int32) // 2

    def _basis(self) -> np.ndarray:
        return np.cumprod((1, *self.config.levels[:-1])).astype(np.int32)

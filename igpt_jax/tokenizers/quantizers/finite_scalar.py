"""Quantizers: continuous latents to tokens and back, behind one interface.

A quantizer maps `latents [... d]` to `Quantized` and tokens back with `lookup`. Its only state is
its parameters: a codebook is started and kept alive from outside, by `codebook.py`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.typing import Array, Float, Int, PRNGKey

NORM_EPSILON = 1e-12  # torch.nn.functional.normalize's, which the published codebooks saw


class Quantized(NamedTuple):
    """Latents after quantization, the tokens that name them, and what training adds to the loss."""

    quantized: Float[Array, "*n d"]
    tokens: Int[Array, "*n"]
    codebook_loss: Float[Array, ""]
    commitment_loss: Float[Array, ""]


@dataclass(frozen=True)
class VectorQuantizerConfig:
    """A learned codebook.

    Attributes:
        codebook_size: number of codes.
        code_dim: dimensions of a code.
        l2_normalize: compare directions instead of vectors (Yu et al. 2022, section 3.2).
    """

    codebook_size: int = 16_384
    code_dim: int = 8
    l2_normalize: bool = True

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.code_dim < 1:
            raise UserError(
                "expected codebook_size >= 2 and code_dim >= 1, got "
                f"{self.codebook_size} and {self.code_dim}; choose larger ones"
            )


@dataclass(frozen=True)
class FiniteScalarQuantizerConfig:
    """A fixed grid of codes, nothing to train.

    Attributes:
        levels: number of values of each dimension; their product is the number of codes.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
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


QuantizerConfig = VectorQuantizerConfig | FiniteScalarQuantizerConfig


def l2_normalized(vectors: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Scale vectors to length one."""
    # The epsilon goes under the root: the gradient of a norm at zero is not a number.
    norm = jnp.sqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), NORM_EPSILON**2))
    return vectors / norm


def straight_through(
    latents: Float[Array, "*n d"], quantized: Float[Array, "*n d"]
) -> Float[Array, "*n d"]:
    """Return `quantized`, but with the gradient of `latents` (van den Oord 2017, section 3.2)."""
    return latents + jax.lax.stop_gradient(quantized - latents)


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

    def __call__(self, latents: Float[Array, "*n d"]) -> Quantized:
        """Quantize latents.

        The codebook loss moves codes only, the commitment loss the encoder only; neither is
        weighted here (published: 1 and beta = 0.25).
        """
        latents = latents.astype(jnp.float32)
        if self.config.l2_normalize:
            latents = l2_normalized(latents)
        codes = self._codes()
        tokens = nearest(jax.lax.stop_gradient(latents), jax.lax.stop_gradient(codes))
        quantized = codes[tokens]
        return Quantized(
            quantized=straight_through(latents, quantized),
            tokens=tokens,
            codebook_loss=jnp.mean((quantized - jax.lax.stop_gradient(latents)) ** 2),
            commitment_loss=jnp.mean((jax.lax.stop_gradient(quantized) - latents) ** 2),
        )

    def lookup(self, tokens: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        return self._codes()[tokens]

    def _codes(self) -> Float[Array, "v d"]:
        codebook = self.codebook.astype(jnp.float32)
        return l2_normalized(codebook) if self.config.l2_normalize else codebook


class FiniteScalarQuantizer(nn.Module):
    """Bound every dimension and round it to a few levels (FSQ, Mentzer et al. 2023, section 3.1).

    Codes lie in [-1, 1]; the first dimension varies fastest with the token. It has no parameters
    and no loss of its own.

    Attributes:
        config: the levels.
        epsilon: how far beyond the outermost levels the bound lies, so that both can be reached.
    """

    config: FiniteScalarQuantizerConfig
    epsilon: float = 1e-3

    def __call__(self, latents: Float[Array, "*n d"]) -> Quantized:
        """Quantize latents."""
        bounded = self._bound(latents.astype(jnp.float32))
        rounded = straight_through(bounded, jnp.round(bounded))
        zero = jnp.zeros((), jnp.float32)
        return Quantized(rounded / self._half_width(), self._tokens(rounded), zero, zero)

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


def build_quantizer(config: QuantizerConfig) -> VectorQuantizer | FiniteScalarQuantizer:
    """Build the module that a quantizer config describes."""
    match config:
        case VectorQuantizerConfig():
            return VectorQuantizer(config)
        case FiniteScalarQuantizerConfig():
            return FiniteScalarQuantizer(config)

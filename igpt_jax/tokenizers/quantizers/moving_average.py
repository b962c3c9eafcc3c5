"""Vector quantization whose codes are moving averages of the latents that chose them."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.running import moving_average, set_next
from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.tokenizers.quantizers.base import (
    GradientName,
    Quantized,
    check_codebook,
    l2_normalized,
    pass_gradient,
    squared_distance,
)
from igpt_jax.tokenizers.quantizers.vector import uniform_codebook
from igpt_jax.typing import Array, Bool, Float, Int, PRNGKey

EXACT_SHARE = 1e-4  # of the latents' mean square: below it a code is as good as exact
TIE_SHARE = 1e-5  # of the codes' mean square: above what rounding does to squared distances
UNUSED_SHARE = 1e-6  # of an equal share: what a code that nobody chooses is divided by


@dataclass(frozen=True)
class MovingAverageQuantizerConfig:
    """A codebook of moving averages (van den Oord et al. 2017, appendix A.1).

    Attributes:
        codebook_size: number of codes.
        code_dim: dimensions of a code.
        l2_normalize: compare directions instead of vectors.
        gradient: how the decoder's gradient reaches the encoder.
        decay: of the averages, per update.
        restart_below: a code chosen less often than this part of an equal share starts again at a
            latent (Dhariwal et al. 2020, section 3.1), drawn as its squared error weighs, as
            k-means++ starts (Arthur & Vassilvitskii 2007); 0 never restarts.
    """

    codebook_size: int = 1_024
    code_dim: int = 8
    l2_normalize: bool = False
    gradient: GradientName = "straight_through"
    decay: float = 0.99
    restart_below: float = 0.05

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.code_dim)
        if not (0 < self.decay < 1 and 0 <= self.restart_below < 1):
            raise UserError(
                "expected 0 < decay < 1 and 0 <= restart_below < 1, got "
                f"{self.decay} and {self.restart_below}; try 0.99 and 0.05"
            )


class MovingAverageQuantizer(nn.Module):
    """The nearest of codes that follow their latents; only the encoder learns by gradients.

    Its two parameters are running statistics (`igpt_jax/running.py`): the share of latents that
    chose each code, and the mean over all latents of those that chose it; a code is their ratio.

    Attributes:
        config: size of the codebook and how it moves.
    """

    config: MovingAverageQuantizerConfig

    def setup(self) -> None:
        """Declare the statistics."""
        size = self.config.codebook_size

        def equal_shares(key: PRNGKey) -> Float[Array, " v"]:
            return jnp.full((size,), 1.0 / size)

        def sums(key: PRNGKey) -> Float[Array, "v d"]:
            return uniform_codebook(key, (size, self.config.code_dim), jnp.float32) / size

        self.share = self.param("running_share", equal_shares)
        self.sum = self.param("running_sum", sums)

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents; the codebook moves where `deterministic` is False."""
        config = self.config
        latents = latents.astype(jnp.float32)
        if config.l2_normalize:
            latents = l2_normalized(latents)
        codes = jax.lax.stop_gradient(self._codes())
        tokens = self._nearest(jax.lax.stop_gradient(latents), codes)
        quantized = codes[tokens]
        losses = {"commitment": squared_distance(latents, quantized)}
        if not deterministic:
            losses["running"] = self._follow(latents, tokens)
        return Quantized(pass_gradient(latents, quantized, config.gradient), tokens, losses)

    def lookup(self, tokens: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        return self._codes()[tokens]

    def _nearest(
        self, latents: Float[Array, "*n d"], codes: Float[Array, "v d"]
    ) -> Int[Array, "*n"]:
        """Tokens of latents: the first one of equal codes; the others die, and are never chosen."""
        share, restart_below = self.share, self.config.restart_below
        squares = jnp.sum(share * jnp.sum(codes**2, axis=-1)) / jnp.sum(share)
        is_used = share >= restart_below / self.config.codebook_size if restart_below else None
        return nearest(latents, codes, is_used=is_used, tolerance=TIE_SHARE * squares)

    def _codes(self) -> Float[Array, "v d"]:
        unused = UNUSED_SHARE / self.config.codebook_size
        codes = self.sum / (self.share + unused)[:, None]
        return l2_normalized(codes) if self.config.l2_normalize else codes

    def _follow(self, latents: Float[Array, "*n d"], tokens: Int[Array, "*n"]) -> Float[Array, ""]:
        """Return the loss that moves the statistics."""
        config, equal_share = self.config, 1.0 / self.config.codebook_size
        points, chosen = latents.reshape(-1, latents.shape[-1]), tokens.reshape(-1)
        weight = 1.0 / len(points)
        shares = jax.ops.segment_sum(jnp.full(chosen.shape, weight), chosen, config.codebook_size)
        sums = jax.ops.segment_sum(points * weight, chosen, config.codebook_size)
        share = moving_average(self.share, shares, config.decay)
        total = moving_average(self.sum, sums, config.decay)
        if config.restart_below:
            errors = squared_errors(points, self._codes()[chosen])
            rows, found = scattered_rows(self.make_rng("quantizer"), errors, config.codebook_size)
            restarts = found & (share < config.restart_below * equal_share)
            share = jnp.where(restarts, equal_share, share)
            total = jnp.where(restarts[:, None], points[rows] * equal_share, total)
        return set_next(self.share, share) + set_next(self.sum, total)


def squared_errors(points: Float[Array, "n d"], codes: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Squared distance of each latent to its code; 0 where rounding could explain it."""
    errors = jnp.sum((points - codes) ** 2, axis=-1)
    return jnp.where(errors > EXACT_SHARE * jnp.mean(jnp.sum(points**2, axis=-1)), errors, 0.0)


def scattered_rows(
    key: PRNGKey, weights: Float[Array, " n"], count: int
) -> tuple[Int[Array, " v"], Bool[Array, " v"]]:
    """Draws `count` rows with chances that are as their weights, by systematic sampling.

    Returns:
        The rows, and which of them are the first of their kind with a weight above 0.
    """
    offset_key, order_key = jax.random.split(key)
    cumulative = jnp.cumsum(weights)
    steps = (jnp.arange(count) + jax.random.uniform(offset_key)) / count
    rows = jnp.searchsorted(cumulative, steps * cumulative[-1], side="right")
    rows = jnp.minimum(rows, len(weights) - 1)
    is_first = jnp.concatenate([jnp.ones(1, bool), rows[1:] != rows[:-1]])
    order = jax.random.permutation(order_key, count)
    return rows[order], (is_first & (weights[rows] > 0))[order]

"""The discrete VAE's quantizer: a code drawn from logits, differentiable by Gumbel-softmax."""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.running import set_next
from igpt_jax.tokenizers.quantizers.base import Quantized, check_codebook
from igpt_jax.typing import Array, Float, Int, PRNGKey


@dataclass(frozen=True)
class GumbelQuantizerConfig:
    """A codebook that is chosen from by logits (Ramesh et al. 2021, section 2.1).

    Attributes:
        codebook_size: number of codes.
        code_dim: dimensions of a code and of a latent.
        temperature: of the relaxation at the first update.
        min_temperature: where it ends; the paper's 1/16.
        temperature_decay: factor of the temperature per update.
        hard: decode one code and let the gradient take the relaxed mixture, instead of decoding
            the mixture (Jang et al. 2017, section 2.2).
    """

    codebook_size: int = 8_192
    code_dim: int = 256
    temperature: float = 1.0
    min_temperature: float = 1 / 16
    temperature_decay: float = 0.9998
    hard: bool = True

    def __post_init__(self) -> None:
        check_codebook(self.codebook_size, self.code_dim)
        if not 0 < self.min_temperature <= self.temperature or not 0 < self.temperature_decay <= 1:
            raise UserError(
                "expected 0 < min_temperature <= temperature and 0 < temperature_decay <= 1, got "
                f"{self.min_temperature}, {self.temperature} and {self.temperature_decay}"
            )


class GumbelQuantizer(nn.Module):
    """A code by its logit: the largest one, or while training a draw.

    Attributes:
        config: size of the codebook, and the temperature.
        param_dtype: dtype of the parameters; the arithmetic is always float32.
    """

    config: GumbelQuantizerConfig
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the projection to logits, the codebook and the temperature."""
        config = self.config
        self.logits = nn.Dense(config.codebook_size, param_dtype=self.param_dtype)
        shape = (config.codebook_size, config.code_dim)
        start = nn.initializers.normal(1.0)
        self.codebook = self.param("codebook", start, shape, self.param_dtype)

        def start_temperature(key: PRNGKey) -> Float[Array, ""]:
            return jnp.float32(config.temperature)

        self.temperature = self.param("running_temperature", start_temperature)

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents; `deterministic=False` draws the codes and lowers the temperature."""
        config, codebook = self.config, self.codebook.astype(jnp.float32)
        logits = self.logits(latents.astype(jnp.float32))
        log_probabilities = jax.nn.log_softmax(logits)
        # KL divergence to equal frequencies, the prior of the codes.
        divergence = jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)
        losses = {"kl": jnp.mean(divergence) + math.log(config.codebook_size)}
        if deterministic:
            tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            return Quantized(codebook[tokens], tokens, losses)
        temperature = jax.lax.stop_gradient(self.temperature)
        noisy = logits + jax.random.gumbel(self.make_rng("quantizer"), logits.shape)
        tokens = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
        weights = jax.nn.softmax(noisy / temperature)
        if config.hard:
            chosen = jax.nn.one_hot(tokens, config.codebook_size)
            weights = weights + jax.lax.stop_gradient(chosen - weights)
        cooler = jnp.maximum(temperature * config.temperature_decay, config.min_temperature)
        losses["running"] = set_next(self.temperature, cooler)
        return Quantized(weights @ codebook, tokens, losses)

    def lookup(self, tokens: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        return self.codebook.astype(jnp.float32)[tokens]

"""Entropies that keep a codebook in use: each latent sure of its code, all codes taken equally.

Source: Yu et al. 2024 (MAGVIT-v2), equation 4; Jansen et al. 2020 before.
"""

import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Float

MIN_SHARE = 1e-20


def check_temperature(temperature: float | None) -> None:
    """Refuse a temperature that softens nothing.

    Raises:
        UserError: it is not above 0.
    """
    if temperature is not None and not temperature > 0:
        raise UserError(
            f"entropy_temperature: expected more than 0, got {temperature}; None switches the "
            "entropy loss off"
        )


def entropy_loss(logits: Float[Array, "*n v"]) -> Float[Array, ""]:
    """Return mean entropy of the assignments less entropy of their mean, in nats.

    Args:
        logits: affinity of each latent to each code, divided by the temperature.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    probabilities = jnp.exp(log_probabilities)
    each = -jnp.sum(probabilities * log_probabilities, axis=-1)
    mean = jnp.mean(probabilities.reshape(-1, probabilities.shape[-1]), axis=0)
    # The slope of the entropy is infinite at a share of 0.
    return jnp.mean(each) - jnp.sum(jax.scipy.special.entr(jnp.maximum(mean, MIN_SHARE)))


def code_affinity(
    latents: Float[Array, "*n d"], codes: Float[Array, "v d"], temperature: float
) -> Float[Array, "*n v"]:
    """Return the negative squared distance of latents to codes over the temperature."""
    squared_norms = jnp.sum(codes**2, axis=-1)
    # |z|^2 is the same for every code and falls out of the softmax.
    return (2.0 * latents @ codes.T - squared_norms) / temperature

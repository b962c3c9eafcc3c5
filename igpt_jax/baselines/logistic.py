"""A likelihood of bytes: the logistic distribution, cut into 256 intervals."""

import jax
import jax.numpy as jnp

from igpt_jax.typing import Array, Float, UInt8

MIN_LOG_SCALE = -7.0  # Salimans et al. 2017's code: a ninth of a byte
_HALF_BIN = 1 / 255  # half the distance of two bytes, in pixels of [-1, 1]


def discretized_logistic(
    values: UInt8[Array, "*n"], means: Float[Array, "*n"], log_scales: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Return the log-probability of bytes, in nats; that of all 256 sums to one.

    Salimans et al. 2017, section 2.1, with one component: a byte has what the logistic distribution
    has within half a step of it, 0 and 255 also all that lies beyond.

    With sigmoids at the ends a < b of an interval, s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): a sum
    of logarithms in which nothing cancels.

    Args:
        values: bytes.
        means: of the distribution, in pixels of [-1, 1].
        log_scales: logarithm of its scale, in the same unit; not under `MIN_LOG_SCALE`.
    """
    inverse_scale = jnp.exp(-jnp.maximum(log_scales, MIN_LOG_SCALE))
    centred = values.astype(jnp.float32) / 127.5 - 1 - means
    below_upper = jax.nn.log_sigmoid((centred + _HALF_BIN) * inverse_scale)
    above_lower = jax.nn.log_sigmoid(-(centred - _HALF_BIN) * inverse_scale)
    inner = below_upper + above_lower + jnp.log(-jnp.expm1(-2 * _HALF_BIN * inverse_scale))
    outer = jnp.where(values == 0, below_upper, above_lower)
    return jnp.where((values == 0) | (values == 255), outer, inner)

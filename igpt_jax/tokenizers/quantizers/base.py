"""What every quantizer is: latents to tokens and back, and how gradients get around it.

A quantizer maps `latents [... d]` to `Quantized` and tokens back with `lookup`. Its only state is
its parameters: codebooks are started from outside, by `tokenizers/codebook.py`.
"""

from typing import Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Float, Int

MIN_LENGTH = 1e-6  # of a latent that has a direction to turn from
NORM_EPSILON = 1e-12  # torch.nn.functional.normalize's, which the published codebooks saw

GradientName: TypeAlias = Literal["straight_through", "rotation"]


class Quantized(NamedTuple):
    """Latents after quantization, the tokens that name them, and what training adds to the loss."""

    quantized: Float[Array, "*n d"]
    tokens: Int[Array, "*m"]
    """`[*n]`; residual quantizers have one more axis, for their levels."""
    losses: dict[str, Float[Array, ""]]
    """Unweighted terms: `codebook`, `commitment`, `entropy`, `kl`, and `running` of value 0, which
    must have weight 1."""


class Quantizer(Protocol):
    """A Flax module between an encoder and a decoder."""

    def __call__(self, latents: Float[Array, "*n d"], *, deterministic: bool = True) -> Quantized:
        """Quantize latents; `deterministic=False` needs the random stream `quantizer`."""
        ...

    def lookup(self, tokens: Int[Array, "*m"]) -> Float[Array, "*n d"]:
        """Return the codes of tokens."""
        ...


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


def rotated(latents: Float[Array, "*n d"], quantized: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Return `quantized` as a rotation and scaling of `latents` that is constant for gradients.

    The gradient that reaches the latents is turned by the angle between code and latent, so that
    the latents of one code no longer all get the same (Fifty et al. 2024, section 4.2). At a zero
    latent it is straight-through.
    """
    fixed, target = jax.lax.stop_gradient(latents), jax.lax.stop_gradient(quantized)
    start, end = l2_normalized(fixed), l2_normalized(target)
    middle = l2_normalized(start + end)
    scale = jnp.linalg.norm(target, axis=-1, keepdims=True) / jnp.maximum(
        jnp.linalg.norm(fixed, axis=-1, keepdims=True), NORM_EPSILON
    )

    def along(axis: Float[Array, "*n d"]) -> Float[Array, "*n 1"]:
        return jnp.sum(latents * axis, axis=-1, keepdims=True)

    # Two reflections without the matrix: through `middle`, then `start` onto `end`.
    turned = scale * (latents - 2 * along(middle) * middle + 2 * along(start) * end)
    has_direction = jnp.linalg.norm(fixed, axis=-1, keepdims=True) > MIN_LENGTH
    return jnp.where(has_direction, turned, straight_through(latents, quantized))


def pass_gradient(
    latents: Float[Array, "*n d"], quantized: Float[Array, "*n d"], gradient: GradientName
) -> Float[Array, "*n d"]:
    """Return `quantized` with the gradient that the decoder sends back to the latents."""
    match gradient:
        case "straight_through":
            return straight_through(latents, quantized)
        case "rotation":
            return rotated(latents, quantized)


def squared_distance(
    moving: Float[Array, "*n d"], target: Float[Array, "*n d"]
) -> Float[Array, ""]:
    """Return the mean squared difference; only `moving` gets a gradient."""
    return jnp.mean((moving - jax.lax.stop_gradient(target)) ** 2)


def check_codebook(codebook_size: int, code_dim: int) -> None:
    """Refuse a codebook that cannot be.

    Raises:
        UserError: fewer than two codes or no dimension.
    """
    if codebook_size < 2 or code_dim < 1:
        raise UserError(
            f"expected codebook_size >= 2 and code_dim >= 1, got {codebook_size} and {code_dim}; "
            "choose larger ones"
        )

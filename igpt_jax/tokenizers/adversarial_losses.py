"""What a discriminator and the network it judges minimise, over logits that are positive for real.

Every mean is over all images and patches, in float32.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Float

GanLoss: TypeAlias = Literal["hinge", "non_saturating", "vanilla"]


def discriminator_loss(
    kind: GanLoss, real_logits: Float[Array, "b gh gw"], fake_logits: Float[Array, "b gh gw"]
) -> Float[Array, ""]:
    """Return the loss of the discriminator; it falls as real logits rise and fake ones fall.

    Args:
        kind: `hinge` (Lim & Ye 2017, section 3; taming-transformers and LlamaGen halve it);
            `non_saturating`, the binary cross-entropy of real and of fake, added (Goodfellow et
            al. 2014, eq. 1); `vanilla`, taming-transformers' name for half of the latter.
        real_logits: of images of the data.
        fake_logits: of images that a network made.

    Raises:
        UserError: no such kind.
    """
    real = real_logits.astype(jnp.float32)
    fake = fake_logits.astype(jnp.float32)
    match kind:
        case "hinge":
            return jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake))
        case "non_saturating":
            return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))
        case "vanilla":
            return 0.5 * discriminator_loss("non_saturating", real, fake)
        case _:
            raise _unknown(kind)


def generator_loss(kind: GanLoss, fake_logits: Float[Array, "b gh gw"]) -> Float[Array, ""]:
    """Return the loss of the network that makes images; it falls as the fake logits rise.

    Args:
        kind: `hinge` and `vanilla` are minus the mean logit (Lim & Ye 2017; Esser et al. 2021's
            code for both); `non_saturating` is -log D (Goodfellow et al. 2014, section 3).
        fake_logits: of images that the network made.

    Raises:
        UserError: no such kind.
    """
    fake = fake_logits.astype(jnp.float32)
    match kind:
        case "hinge" | "vanilla":
            return -jnp.mean(fake)
        case "non_saturating":
            return jnp.mean(jax.nn.softplus(-fake))
        case _:
            raise _unknown(kind)


def discriminator_accuracy(
    real_logits: Float[Array, "b gh gw"], fake_logits: Float[Array, "b gh gw"]
) -> Float[Array, ""]:
    """Return the share of logits with the right sign, in [0, 1]; a logit of 0 is wrong."""
    return 0.5 * (jnp.mean(real_logits > 0) + jnp.mean(fake_logits < 0))


def r1_penalty(
    discriminate: Callable[[Float[Array, "b h w c"]], Float[Array, "b gh gw"]],
    images: Float[Array, "b h w c"],
) -> Float[Array, ""]:
    """Return the mean squared gradient norm at real images (Mescheder et al. 2018, eq. 9).

    The logits of an image are summed over its patches: a pixel's gradient then comes from the few
    patches that see it and does not shrink with the number of all patches, as that of a mean
    would. With one logit an image both are the paper's. Where the discriminator compares the
    images of a batch (batch norm, minibatch standard deviation), the gradient is that of the sum
    over the batch.

    Args:
        discriminate: the discriminator with its parameters; the penalty can be differentiated
            by them.
        images: real pixels.

    Returns:
        The expectation alone; the paper weighs it by gamma / 2.
    """

    def summed_logits(pixels: Float[Array, "b h w c"]) -> Float[Array, ""]:
        return jnp.sum(discriminate(pixels).astype(jnp.float32))

    gradient = jax.grad(summed_logits)(images.astype(jnp.float32))
    return jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))


def lecam_penalty(
    real_logits: Float[Array, "b gh gw"],
    fake_logits: Float[Array, "b gh gw"],
    real_average: Float[Array, ""],
    fake_average: Float[Array, ""],
) -> Float[Array, ""]:
    """Return LeCam's regularizer of a discriminator for few data (Tseng et al. 2021, eq. 3).

    It keeps real logits from leaving the fake average upwards and fake ones from leaving the real
    average downwards; the one-sidedness is that of the authors' code.

    Args:
        real_logits: of images of the data.
        fake_logits: of images that a network made.
        real_average: running mean of the real logits, kept by the caller.
        fake_average: running mean of the fake logits; no gradient flows through either.
    """
    anchors = jnp.stack([real_average, fake_average]).astype(jnp.float32)
    real_anchor, fake_anchor = jax.lax.stop_gradient(anchors)
    real_excess = jax.nn.relu(real_logits.astype(jnp.float32) - fake_anchor)
    fake_excess = jax.nn.relu(real_anchor - fake_logits.astype(jnp.float32))
    return jnp.mean(real_excess**2) + jnp.mean(fake_excess**2)


def adaptive_weight(
    reconstruction_gradient: Float[Array, "*shape"],
    adversarial_gradient: Float[Array, "*shape"],
    *,
    epsilon: float = 1e-4,  # as in the paper's code; the text has 1e-6
    max_weight: float = 1e4,
) -> Float[Array, ""]:
    """Return VQGAN's lambda, which weighs the adversarial loss (Esser et al. 2021, eq. 7).

    Args:
        reconstruction_gradient: gradient of the reconstruction loss (with the perceptual one) by
            the kernel of the decoder's last layer.
        adversarial_gradient: gradient of the generator's loss by the same kernel.
        epsilon: added to the norm of the latter.
        max_weight: upper limit.

    Returns:
        The ratio of the norms, in [0, max_weight]; no gradient flows through it.
    """
    reconstruction_norm, adversarial_norm = (
        jnp.linalg.norm(jax.lax.stop_gradient(gradient).astype(jnp.float32).ravel())
        for gradient in (reconstruction_gradient, adversarial_gradient)
    )
    return jnp.clip(reconstruction_norm / (adversarial_norm + epsilon), 0.0, max_weight)


def _unknown(kind: str) -> UserError:
    kinds = ", ".join(get_args(GanLoss))
    return UserError(f"expected a GAN loss, one of {kinds}, got {kind}; try hinge")

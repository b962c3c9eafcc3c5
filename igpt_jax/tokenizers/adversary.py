"""A tokenizer against a discriminator: both players' gradients from one loss.

What the tokenizer minimises holds the discriminator fixed, and the other way round, so that the
gradient of their sum is the gradient of each player: one train step, one optimizer state and one
checkpoint serve both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.running import moving_average, set_next
from igpt_jax.tokenizers.adversarial_losses import (
    GanLoss,
    adaptive_weight,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    lecam_penalty,
    r1_penalty,
)
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.discriminators import DiscriminatorConfig, PatchDiscriminatorConfig
from igpt_jax.tokenizers.losses import (
    AutoencoderLossConfig,
    Distance,
    Metrics,
    describe,
    frames,
    random_streams,
    reconstruction_terms,
    run_autoencoder,
    term_metrics,
    weighted_sum,
)
from igpt_jax.tokenizers.perceptual import laplacian_pyramid_loss
from igpt_jax.typing import Array, Float, Params, PRNGKey

AUTOENCODER, DISCRIMINATOR = "autoencoder", "discriminator"
LECAM_DECAY = 0.99  # of the running means of logits (Tseng et al. 2021, section 3.2)


class Phase(NamedTuple):
    """Who plays: nobody at first, then the discriminator learns, then the tokenizer feels it."""

    discriminator_learns: bool
    tokenizer_feels: bool


@dataclass(frozen=True)
class AdversaryConfig:
    """A discriminator and what the two players do to each other.

    Attributes:
        discriminator: its network.
        loss: what they play for.
        weight: of the adversarial term for the tokenizer.
        adaptive: times the ratio of gradient norms at the decoder's last layer (Esser et al. 2021,
            equation 7), so that the term neither vanishes nor takes over.
        start_step: step at which the tokenizer begins to feel the discriminator.
        lead_steps: steps before that in which only the discriminator learns.
        r1_weight: of the gradient penalty on real pictures, times a half (Mescheder et al. 2018).
        lecam_weight: of the LeCam regulariser (Tseng et al. 2021, equation 3).
    """

    discriminator: DiscriminatorConfig = field(default_factory=PatchDiscriminatorConfig)
    loss: GanLoss = "hinge"
    weight: float = 0.5
    adaptive: bool = True
    start_step: int = 20_000
    lead_steps: int = 1_000
    r1_weight: float = 0.0
    lecam_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if not 0 <= self.lead_steps <= self.start_step:
            raise UserError(
                "adversary: expected 0 <= lead_steps <= start_step, got "
                f"{self.lead_steps} and {self.start_step}"
            )
        if min(self.weight, self.r1_weight, self.lecam_weight) < 0:
            raise UserError(
                "adversary: expected weights of 0 or more, got weight "
                f"{self.weight}, r1_weight {self.r1_weight}, lecam_weight {self.lecam_weight}"
            )

    @property
    def discriminator_start(self) -> int:
        """Updates before the discriminator begins to learn."""
        return self.start_step - self.lead_steps

    @property
    def phases(self) -> dict[int, Phase]:
        """Updates before a phase -> the phase."""
        phases = {0: Phase(False, False), self.discriminator_start: Phase(True, False)}
        return phases | {self.start_step: Phase(True, True)}


def init_players(
    model: Autoencoder, discriminator: nn.Module, images: Float[Array, "b h w 3"], key: PRNGKey
) -> Params:
    """Return the parameters of both players, and the running means of the logits."""
    model_key, discriminator_key = jax.random.split(key)
    return {
        AUTOENCODER: model.init(model_key, images)["params"],
        DISCRIMINATOR: {
            "network": discriminator.init(discriminator_key, images)["params"],
            "running_real": jnp.float32(0),
            "running_fake": jnp.float32(0),
        },
    }


def adversarial_loss(
    model: Autoencoder,
    discriminator: nn.Module,
    params: Params,
    images: Float[Array, "b *t h w 3"],
    config: AutoencoderLossConfig,
    adversary: AdversaryConfig,
    *,
    phase: Phase,
    key: PRNGKey,
    distance: Distance = laplacian_pyramid_loss,
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of one training batch and its parts.

    The value is the tokenizer's own loss, as without an adversary; the gradient is that of both
    players.

    Args:
        model: the tokenizer.
        discriminator: the other player's network.
        params: of both, as `init_players` makes them.
        images: pixels in [-1, 1].
        config: weights of the tokenizer's own terms.
        adversary: what is played.
        phase: who plays.
        key: of dropout and drawn codes.
        distance: perceptual distance.

    Returns:
        The loss, and the metrics of `autoencoder_loss` beside `adversarial_loss`,
        `adversarial_weight`, `reconstruction_gradient`, `adversarial_gradient` (norms at the last
        layer), `discriminator_loss`, `discriminator_accuracy`, `real_logits`, `fake_logits` and,
        where they have weight, `r1_penalty` and `lecam_penalty`; 0 before they start.
    """
    output = run_autoencoder(model, params[AUTOENCODER], images, key)
    fixed = jax.lax.stop_gradient(output.reconstruction)

    def own_terms(reconstruction: Array) -> tuple[Array, Metrics]:
        terms = reconstruction_terms(images, reconstruction, config, distance)
        return weighted_sum(terms, config), terms

    (own, terms), own_pull = jax.value_and_grad(own_terms, has_aux=True)(fixed)
    judge = _judge(discriminator, jax.lax.stop_gradient(params[DISCRIMINATOR]["network"]))

    def fool(reconstruction: Array) -> Array:
        return generator_loss(adversary.loss, judge(frames(reconstruction)))

    fooled, pull_back = jnp.zeros(()), jnp.zeros_like(fixed)
    if phase.tokenizer_feels:
        fooled, pull_back = jax.value_and_grad(fool)(fixed)
    last_layer = _last_layer_gradient(model, params[AUTOENCODER], output.quantized, key)
    own_gradient, adversarial_gradient = last_layer(own_pull), last_layer(pull_back)
    weight = jnp.float32(adversary.weight if phase.tokenizer_feels else 0)
    if adversary.adaptive:
        weight = weight * adaptive_weight(own_gradient, adversarial_gradient)

    # The chain rule by hand: a loss whose gradient at the reconstruction is the sum of both pulls.
    total_pull = jax.lax.stop_gradient(own_pull + weight * pull_back)
    quantizer_terms = weighted_sum(output.losses, config)
    total = jnp.sum(output.reconstruction * total_pull) + quantizer_terms
    play = partial(_discriminator_terms, discriminator, params, images, fixed, adversary)
    if phase.discriminator_learns:
        against, against_metrics = play()
    else:
        shapes = jax.eval_shape(play)
        against, against_metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    total = total + against
    loss = own + quantizer_terms
    metrics = (
        term_metrics(terms | output.losses)
        | describe(model, images, output)
        | {
            "adversarial_loss": fooled,
            "adversarial_weight": weight,
            "reconstruction_gradient": jnp.linalg.norm(own_gradient),
            "adversarial_gradient": jnp.linalg.norm(adversarial_gradient),
        }
        | against_metrics
    )
    value = total + jax.lax.stop_gradient(loss - total)
    return value, jax.lax.stop_gradient(metrics)


def _discriminator_terms(
    discriminator: nn.Module,
    params: Params,
    images: Float[Array, "b *t h w 3"],
    reconstruction: Float[Array, "b *t h w 3"],
    adversary: AdversaryConfig,
) -> tuple[Float[Array, ""], Metrics]:
    """Return what the discriminator minimises."""
    own = params[DISCRIMINATOR]
    judge = _judge(discriminator, own["network"])
    real, fake = judge(frames(images)), judge(frames(reconstruction))
    loss = discriminator_loss(adversary.loss, real, fake)
    metrics = {
        "discriminator_loss": loss,
        "discriminator_accuracy": discriminator_accuracy(real, fake),
        "real_logits": jnp.mean(real),
        "fake_logits": jnp.mean(fake),
    }
    if adversary.r1_weight:
        metrics["r1_penalty"] = r1_penalty(judge, frames(images))
        loss = loss + 0.5 * adversary.r1_weight * metrics["r1_penalty"]
    if adversary.lecam_weight:
        averages = jax.lax.stop_gradient((own["running_real"], own["running_fake"]))
        metrics["lecam_penalty"] = lecam_penalty(real, fake, *averages)
        loss = loss + adversary.lecam_weight * metrics["lecam_penalty"]
    for name, logits in (("running_real", real), ("running_fake", fake)):
        loss = loss + set_next(own[name], moving_average(own[name], jnp.mean(logits), LECAM_DECAY))
    return loss, metrics


def _judge(discriminator: nn.Module, network: Params) -> Callable[[Array], Array]:
    """Return the function from images to logits."""
    return lambda images: cast(Array, discriminator.apply({"params": network}, images))


def _last_layer_gradient(
    model: Autoencoder, params: Params, quantized: Float[Array, "b *t gh gw d"], key: PRNGKey
) -> Callable[[Array], Array]:
    """Return the function from a gradient at the reconstruction to one at the last kernel.

    The decoder runs on what it has just run on: the compiler keeps one of the two.
    """
    params, quantized = jax.lax.stop_gradient((params, quantized))
    decoder = params["decoder"]
    last = decoder["conv_out"]

    def reconstruct(kernel: Array) -> Array:
        changed = {**decoder, "conv_out": {**last, "kernel": kernel}}
        variables = {"params": {**params, "decoder": changed}}
        return cast(
            Array,
            model.apply(
                variables,
                quantized,
                deterministic=False,
                rngs=random_streams(key),
                method="reconstruct",
            ),
        )

    _, pull_back = jax.vjp(reconstruct, last["kernel"])
    return lambda gradient: pull_back(gradient)[0]

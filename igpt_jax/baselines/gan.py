"""A convolutional GAN: a residual generator against a projection discriminator.

Goodfellow et al. 2014, with the blocks of Brock et al. 2019 and Karras et al. 2020, the conditional
logit of Miyato & Koyama 2018, and the gradient penalty of Mescheder et al. 2018.
"""

import math
from dataclasses import dataclass
from typing import Any, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.baselines.blocks import LabelEmbedding, LatentDecoder, example_labels, initial_key
from igpt_jax.baselines.network_config import NetworkConfig
from igpt_jax.dtypes import resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.tokenizers.adversarial_losses import (
    GanLoss,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from igpt_jax.tokenizers.autoencoder_blocks import space_to_depth
from igpt_jax.tokenizers.discriminators import (
    LEAKY_SLOPE,
    StyleBlock,
    StyleLayer,
    append_minibatch_stddev,
)
from igpt_jax.typing import Array, Float, Int, Params, PRNGKey

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


@dataclass(frozen=True)
class GANConfig(NetworkConfig):
    """A GAN; the attributes of `NetworkConfig` are the generator's.

    Attributes:
        discriminator_channels: of its largest maps; it has the same patches and multipliers.
        stddev_group_size: pictures that it compares, see `append_minibatch_stddev`; None for none.
        loss: what both play for.
        r1_weight: of the gradient penalty on real pictures, times a half.
        r1_share: of the pictures of a batch that the penalty is measured on: its mean is the same
            on all of them, its cost is not.
    """

    discriminator_channels: int = 32
    stddev_group_size: int | None = 4
    loss: GanLoss = "hinge"
    r1_weight: float = 1.0
    r1_share: float = 0.25

    def __post_init__(self) -> None:
        """Refuses what cannot be played."""
        super().__post_init__()
        group = self.stddev_group_size
        if self.discriminator_channels < 1 or (group is not None and group < 2):
            raise UserError(
                "model: expected discriminator_channels of at least 1 and stddev_group_size of at "
                f"least 2 or None, got {self.discriminator_channels} and {group}"
            )
        if self.loss not in get_args(GanLoss):
            names = ", ".join(get_args(GanLoss))
            raise UserError(f"model.loss: expected one of {names}, got {self.loss}")
        if not (self.r1_weight >= 0 and 0 < self.r1_share <= 1):
            raise UserError(
                "model: expected r1_weight of 0 or more and r1_share in (0, 1], got "
                f"{self.r1_weight} and {self.r1_share}"
            )


class Generator(nn.Module):
    """Latents and classes to pictures.

    Attributes:
        config: sizes.
    """

    config: GANConfig

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b z"], labels: Int[Array, " b"] | None = None
    ) -> Float[Array, "b h w 3"]:
        """Return pixels in [-1, 1], float32."""
        dtype = resolve_dtype(self.config.dtype)
        decoder = LatentDecoder(config=self.config, out_channels=3, dtype=dtype, name="decoder")
        return jnp.tanh(decoder(latents, labels))

    def draw(
        self, latents: Float[Array, "b z"], labels: Int[Array, " b"] | None = None
    ) -> Float[Array, "b h w 3"]:
        """Return pixels in [-1, 1], float32: what a trained model shows."""
        return self(latents, labels)


class ProjectionDiscriminator(StyleLayer):
    """Pictures and classes to one logit each, positive for real.

    Miyato & Koyama 2018, equation 3: what is seen, and how well it goes with the class.

    Attributes:
        config: sizes.
    """

    config: GANConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], labels: Int[Array, " b"] | None = None
    ) -> Float[Array, "b 1 1"]:
        """Return logits in float32, of pixels in [-1, 1]."""
        config = self.config
        widths = [config.discriminator_channels * m for m in config.channel_multipliers]
        patches = space_to_depth(images, config.patch_size)
        features = self.leaky_conv("conv_in", widths[0], patches)
        for index, channels in enumerate(widths[1:]):
            block = StyleBlock(channels=channels, blur=False, name=f"block_{index}", **self.dtypes)
            features = block(features)
        if config.stddev_group_size is not None:
            features = append_minibatch_stddev(features, config.stddev_group_size)
        features = self.leaky_conv("conv_out", widths[-1], features)
        he_normal = nn.initializers.he_normal()
        dense = nn.Dense(widths[-1], kernel_init=he_normal, name="dense_0", **self.dtypes)
        seen = nn.leaky_relu(dense(features.reshape(len(features), -1)), LEAKY_SLOPE)
        seen = seen.astype(jnp.float32)
        logits = nn.Dense(1, name="dense_1")(seen)[:, 0]
        if config.num_classes:
            assert labels is not None
            embedding = LabelEmbedding(
                config.num_classes, config.class_factors, widths[-1], name="label"
            )
            wanted = jnp.sum(embedding(labels), axis=1)
            logits = logits + jnp.sum(wanted * seen, axis=-1) / math.sqrt(widths[-1])
        return logits[:, None, None]


def build_discriminator(config: GANConfig) -> ProjectionDiscriminator:
    """Make the discriminator's module."""
    return ProjectionDiscriminator(config, dtype=resolve_dtype(config.dtype))


def init_gan(config: GANConfig, key: PRNGKey) -> Params:
    """Return the parameters of both players."""
    generator_key, discriminator_key = jax.random.split(initial_key(key))
    latents, labels = jnp.zeros((1, config.latent_dim)), example_labels(config)
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    return {
        GENERATOR: Generator(config).init(generator_key, latents, labels)["params"],
        DISCRIMINATOR: build_discriminator(config).init(discriminator_key, images, labels)[
            "params"
        ],
    }


def gan_loss(
    config: GANConfig,
    params: Params,
    images: Float[Array, "b h w 3"],
    labels: Int[Array, " b"] | None,
    key: PRNGKey,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the sum of what both players minimise, each with the other held fixed, and its parts.

    Its gradient is therefore that of each player. Made pictures are asked for the classes of the
    real ones.

    Args:
        config: the GAN.
        params: of both players, as `init_gan` makes them.
        images: real pixels in [-1, 1].
        labels: their classes; None of a model without.
        key: of the latents.
    """
    discriminator = build_discriminator(config)

    def judge(network: Params, pictures: Array, asked: Array | None) -> Array:
        return cast(Array, discriminator.apply({"params": network}, pictures, asked))

    latents = jax.random.normal(key, (len(images), config.latent_dim))
    made: Any = Generator(config).apply({"params": params[GENERATOR]}, latents, labels)
    own = params[DISCRIMINATOR]
    fooled = generator_loss(config.loss, judge(jax.lax.stop_gradient(own), made, labels))
    real_logits = judge(own, images, labels)
    fake_logits = judge(own, jax.lax.stop_gradient(made), labels)
    against = discriminator_loss(config.loss, real_logits, fake_logits)
    metrics = {
        "generator_loss": fooled,
        "discriminator_loss": against,
        "discriminator_accuracy": discriminator_accuracy(real_logits, fake_logits),
        "real_logits": jnp.mean(real_logits),
        "fake_logits": jnp.mean(fake_logits),
    }
    if config.r1_weight:
        few = math.ceil(len(images) * config.r1_share)
        some = None if labels is None else labels[:few]
        penalty = r1_penalty(lambda pictures: judge(own, pictures, some), images[:few])
        metrics["r1_penalty"] = penalty
        against = against + 0.5 * config.r1_weight * penalty
    return fooled + against, jax.lax.stop_gradient(metrics)

"""A convolutional variational autoencoder (Kingma & Welling 2014) with a likelihood of bytes.

Latents are one vector a picture, standard normal without a picture, a diagonal Gaussian given one;
where there are classes, encoder and decoder see them (Sohn et al. 2015). Sub-pixels are independent
given the latents, each a discretised logistic (`logistic.py`), so that the bound is one on the
probability of the picture's very bytes.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.baselines.blocks import (
    LatentDecoder,
    SteeredBlock,
    embed_label,
    example_labels,
    initial_key,
)
from igpt_jax.baselines.logistic import discretized_logistic
from igpt_jax.baselines.network_config import NetworkConfig
from igpt_jax.dtypes import resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.tokenizers.autoencoder_blocks import ConvLayer, space_to_depth
from igpt_jax.tokenizers.base import to_pixels
from igpt_jax.typing import Array, Float, Int, Leaf, Params, PRNGKey, UInt8

MAX_LOG_STD = 4.0  # of latents: the divergence's exp does not overflow at the start


@dataclass(frozen=True)
class VAEConfig(NetworkConfig):
    """A VAE; encoder and decoder have the same levels.

    Attributes:
        kl_weight: of the divergence from the prior in what is trained; the bound that is reported
            always has it whole.
    """

    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuses weights that nothing can be learned with."""
        super().__post_init__()
        if not self.kl_weight >= 0:
            raise UserError(f"model.kl_weight: expected 0 or more, got {self.kl_weight}")


class PictureEncoder(ConvLayer, kw_only=True):
    """Pictures and classes to the mean and the log standard deviation of their latents."""

    config: VAEConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], labels: Int[Array, " b"] | None
    ) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        """Encode pixels in [-1, 1]; the result is float32."""
        config = self.config
        condition = embed_label(config, labels)
        patches = space_to_depth(images, config.patch_size)
        features = self.conv("conv_in", config.base_channels, patches)
        for index, channels in enumerate(config.level_channels[1:]):
            block = SteeredBlock(
                channels=channels, resize="down", name=f"block_{index}", **self.dtypes
            )
            features = block(features, condition)
        features = nn.swish(self.norm("norm_out", features))
        flat = features.reshape(len(features), -1).astype(jnp.float32)
        mean, log_std = jnp.split(nn.Dense(2 * config.latent_dim, name="latents")(flat), 2, axis=-1)
        return mean, jnp.minimum(log_std, MAX_LOG_STD)


class VAEOutput(NamedTuple):
    """What a VAE makes of pictures.

    Attributes:
        means: float `[b h w 3]`, of each sub-pixel, in [-1, 1] but not clipped.
        log_scales: float `[b h w 3]`, of each sub-pixel.
        latent_means: float `[b z]`.
        latent_log_stds: float `[b z]`.
    """

    means: Leaf
    log_scales: Leaf
    latent_means: Leaf
    latent_log_stds: Leaf


class VAE(nn.Module):
    """Pictures to latents and back.

    Attributes:
        config: sizes.
    """

    config: VAEConfig

    def setup(self) -> None:
        """Declare both halves."""
        dtype = resolve_dtype(self.config.dtype)
        self.encoder = PictureEncoder(config=self.config, dtype=dtype)
        self.decoder = LatentDecoder(config=self.config, out_channels=6, dtype=dtype)

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        noise: Float[Array, "b z"],
        labels: Int[Array, " b"] | None = None,
    ) -> VAEOutput:
        """Run both halves.

        Args:
            images: pixels in [-1, 1].
            noise: standard normal; zeros take the mean of the latents.
            labels: classes; None of a model without.
        """
        mean, log_std = self.encoder(images, labels)
        means, log_scales = self.decode(mean + jnp.exp(log_std) * noise, labels)
        return VAEOutput(means, log_scales, mean, log_std)

    def decode(
        self, latents: Float[Array, "b z"], labels: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"]]:
        """Return means and log scales of all sub-pixels."""
        means, log_scales = jnp.split(self.decoder(latents, labels), 2, axis=-1)
        return means, log_scales

    def draw(
        self, latents: Float[Array, "b z"], labels: Int[Array, " b"] | None = None
    ) -> Float[Array, "b h w 3"]:
        """Return the means of all sub-pixels: what is shown, without the noise about them."""
        return self.decode(latents, labels)[0]


def init_vae(config: VAEConfig, key: PRNGKey) -> Params:
    """Return the parameters."""
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    noise = jnp.zeros((1, config.latent_dim))
    return VAE(config).init(initial_key(key), images, noise, example_labels(config))["params"]


def negative_bound(
    config: VAEConfig,
    params: Params,
    images: UInt8[Array, "b h w 3"],
    labels: Int[Array, " b"] | None,
    noise: Float[Array, "b z"],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Return the two parts of minus the evidence lower bound of each picture, in nats.

    They are what the pixels cost given latents drawn once (Kingma & Welling 2014, equation 7, with
    L = 1), and the divergence of these latents from the prior (appendix B). Their sum is, on
    average over standard normal noise, at least minus the log-likelihood of the bytes.
    """
    output: Any = VAE(config).apply({"params": params}, to_pixels(images), noise, labels)
    log_probs = discretized_logistic(images, output.means, output.log_scales)
    mean, log_std = output.latent_means, output.latent_log_stds
    divergence = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std
    return -jnp.sum(log_probs, axis=(1, 2, 3)), jnp.sum(divergence, axis=-1)


def vae_loss(
    config: VAEConfig,
    params: Params,
    images: UInt8[Array, "b h w 3"],
    labels: Int[Array, " b"] | None,
    key: PRNGKey,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the mean cost of a sub-pixel in nats, and what is logged.

    Returns:
        The loss, and `bits_per_dim` (the bound, whatever `kl_weight` is), `pixel_nats` and
        `kl_nats` of a picture.
    """
    noise = jax.random.normal(key, (len(images), config.latent_dim))
    pixels, divergence = map(jnp.mean, negative_bound(config, params, images, labels, noise))
    dims = math.prod(images.shape[1:])
    metrics = {
        "bits_per_dim": (pixels + divergence) / dims / math.log(2),
        "pixel_nats": pixels,
        "kl_nats": divergence,
    }
    return (pixels + config.kl_weight * divergence) / dims, jax.lax.stop_gradient(metrics)

"""A trained GAN or VAE: draws pictures; a VAE also bounds how probable they are."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.asking import check_count, check_seed, class_ids, count_pictures
from igpt_jax.baselines.gan import GANConfig, Generator
from igpt_jax.baselines.vae import VAE, VAEConfig, negative_bound
from igpt_jax.errors import UserError
from igpt_jax.programs import in_parts
from igpt_jax.sampling.sampler import image_keys
from igpt_jax.tokenizers.base import to_bytes
from igpt_jax.typing import Array, Float, Int, Key, Params, UInt8


@dataclass(frozen=True)
class BaselineModel:
    """What is left of a baseline's training.

    Attributes:
        config: sizes.
        params: a GAN's generator, or a VAE; averaged.
        batch_size: pictures handled at once; larger requests go in parts of one compiled size.
    """

    config: GANConfig | VAEConfig
    params: Params
    batch_size: int = 64

    def sample(
        self,
        labels: ArrayLike | None = None,
        *,
        num_images: int | None = None,
        seed: int = 0,
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Draws pictures; of a VAE the means of its sub-pixels.

        Picture i depends on the seed, i and its class, not on how many are drawn with it (but for
        the rounding of the machine).

        Args:
            labels: class of each picture, or of all; of a model with classes.
            num_images: how many, where labels do not say it; 1 by default.
            seed: of everything random, 0 to 2^32 - 1.

        Raises:
            UserError: a label or number that the model cannot take.
        """
        check_count("num_images", num_images)
        check_seed(seed)
        count = count_pictures(num_images, labels=labels)
        asked = self._labels(labels, count)
        draw = partial(draw_pictures, drawing_module(self.config), self.params)
        size = min(self.batch_size, count)
        return in_parts(draw, size, image_keys(seed, np.arange(count)), asked)

    def likelihood_bound(
        self, images: ArrayLike, labels: ArrayLike | None = None, *, seed: int = 0
    ) -> Float[np.ndarray, " b"]:
        """Lower bound of the log-likelihood of pictures' bytes in nats, of a VAE; float32.

        Args:
            images: uint8 [b h w 3] of the model's size.
            labels: their classes, of a model with classes.
            seed: of the latents that the bound is estimated with.

        Raises:
            UserError: a GAN has no likelihood, or the input does not fit.
        """
        config = self.config
        if not isinstance(config, VAEConfig):
            raise UserError("likelihood_bound: expected a VAE, got a GAN, which has no likelihood")
        check_seed(seed)
        pictures, side = np.asarray(images), config.image_size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (side, side, 3) or not len(pictures):
            raise UserError(
                f"images: expected uint8 of shape (b, {side}, {side}, 3), got {pictures.dtype} of "
                f"{pictures.shape}"
            )
        asked = self._labels(labels, len(pictures))
        bound = partial(_bound, config, self.params)
        keys = image_keys(seed, np.arange(len(pictures)))
        size = min(self.batch_size, len(pictures))
        return in_parts(bound, size, keys, jnp.asarray(pictures), asked)

    def _labels(self, labels: ArrayLike | None, count: int) -> Int[Array, " b"] | None:
        num_classes = self.config.num_classes
        if num_classes == 0:
            if labels is not None:
                raise UserError("labels: expected none, for the model has no classes")
            return None
        if labels is None:
            raise UserError(f"labels: expected classes 0 to {num_classes - 1}, got none")
        return class_ids(labels, num_classes, count)


def drawing_module(config: GANConfig | VAEConfig) -> Generator | VAE:
    """The module that draws from latents, and whose parameters a trained model has."""
    return Generator(config) if isinstance(config, GANConfig) else VAE(config)


@partial(jax.jit, static_argnums=0)
def draw_pictures(
    module: Generator | VAE,
    params: Params,
    keys: Key[Array, " b"],
    labels: Int[Array, " b"] | None,
) -> UInt8[Array, "b h w 3"]:
    """Latents of each key to pictures."""
    size = module.config.latent_dim
    latents = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
    pixels = module.apply({"params": params}, latents, labels, method="draw")
    return to_bytes(jnp.asarray(pixels))


@partial(jax.jit, static_argnums=0)
def _bound(
    config: VAEConfig,
    params: Params,
    keys: Key[Array, " b"],
    images: UInt8[Array, "b h w 3"],
    labels: Int[Array, " b"] | None,
) -> Float[Array, " b"]:
    noise = jax.vmap(lambda key: jax.random.normal(key, (config.latent_dim,)))(keys)
    pixels, divergence = negative_bound(config, params, images, labels, noise)
    return -(pixels + divergence)

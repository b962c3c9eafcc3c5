"""What training a baseline minimises and shows."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.gan import DISCRIMINATOR, GENERATOR, GANConfig, gan_loss, init_gan
from igpt_jax.baselines.model import BaselineModel, drawing_module
from igpt_jax.baselines.network_config import NetworkConfig
from igpt_jax.baselines.vae import VAEConfig, init_vae, vae_loss
from igpt_jax.evaluation.energy_distance import energy_distance, thumbnails
from igpt_jax.grid import image_grid, save_png
from igpt_jax.partitioning import gather_params
from igpt_jax.tokenizers.base import to_pixels
from igpt_jax.training.optimizer import Player
from igpt_jax.training.steps import Batch, Loss
from igpt_jax.training.task import Task
from igpt_jax.typing import Array, Int, Params, PRNGKey

NUM_SHOWN = 16  # pictures of each grid while training
EVALUATION_SEED = 0  # of the latents that validation pictures are measured with


def baseline_task(config: BaselineConfig, directory: Path) -> Task:
    """A GAN's two players, or a VAE's bound."""

    def show(params: Params, batch: dict[str, np.ndarray], step: int) -> None:
        model = BaselineModel(config.model, params)
        labels = batch["label"][:NUM_SHOWN] if config.model.num_classes else None
        count = min(NUM_SHOWN, len(batch["image"]))
        images = model.sample(labels, num_images=count)
        made_by = {"step": step, "seed": 0}
        save_png(directory / f"samples-{step:06d}.png", image_grid(images), made_by)

    if isinstance(config.model, GANConfig):
        return gan_task(config, config.model, show)
    return Task("vae", partial(init_vae, config.model), _vae_loss(config.model), show=show)


def gan_task(config: BaselineConfig, model: GANConfig, show: Any) -> Task:
    """Both players in one step; only the generator is averaged and measured."""

    def loss(params: Params, batch: Batch, key: PRNGKey | None) -> tuple:
        assert key is not None
        images, params = to_pixels(batch["image"]), gather_params(params)
        return gan_loss(model, params, images, asked_labels(model, batch), key)

    def evaluate(params: Params, batch: Batch, _: PRNGKey | None) -> tuple:
        """How far made pictures are from real ones of the same classes, by their thumbnails."""
        labels, params = asked_labels(model, batch), gather_params(params)
        shape = (len(batch["image"]), model.latent_dim)
        latents = jax.random.normal(jax.random.key(EVALUATION_SEED), shape)
        made: Any = drawing_module(model).apply({"params": params}, latents, labels, method="draw")
        distance = energy_distance(thumbnails(to_pixels(batch["image"])), thumbnails(made))
        return distance, {"energy_distance": distance}

    return Task(
        "gan",
        partial(init_gan, model),
        loss,
        show=show,
        evaluate=evaluate,
        averaged=lambda params: params[GENERATOR],
        players={DISCRIMINATOR: Player(config.discriminator_optimizer)},
    )


def _vae_loss(model: VAEConfig) -> Loss:
    def loss(params: Params, batch: Batch, key: PRNGKey | None) -> tuple:
        key = jax.random.key(EVALUATION_SEED) if key is None else key
        labels, params = asked_labels(model, batch), gather_params(params)
        return vae_loss(model, params, batch["image"], labels, key)

    return loss


def asked_labels(model: NetworkConfig, batch: Batch) -> Int[Array, " b"] | None:
    """The classes of a batch, None of a model without."""
    return jnp.asarray(batch["label"]) if model.num_classes else None

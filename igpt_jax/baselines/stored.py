"""Baselines on disk: the directory of a run."""

import os
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from igpt_jax.baselines.blocks import example_labels
from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.gan import GANConfig, Generator
from igpt_jax.baselines.model import BaselineModel
from igpt_jax.baselines.vae import VAEConfig, init_vae
from igpt_jax.errors import UserError
from igpt_jax.mirror import find_directory
from igpt_jax.serialization import config_kind, from_dict
from igpt_jax.training.checkpoint import load_metadata, load_params

BASELINE_CHECKPOINTS: Final = Path("baseline/checkpoints")


def is_baseline(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is the run of a GAN or VAE."""
    return config_kind(Path(directory) / "config.json") == BaselineConfig.__name__


def load_baseline(directory: str | os.PathLike[str]) -> BaselineModel:
    """Loads the GAN or VAE of a run, with averaged parameters of its newest checkpoint.

    Raises:
        UserError: no baseline is there, or it is damaged; says what to do.
    """
    where = find_directory(directory)
    if not is_baseline(where):
        raise UserError(
            f"{where}: expected the run of a GAN or VAE, found none; train one first: python "
            "train.py configs/cards_gan.py, or igpt_jax.load(DIR) for other models"
        )
    config = read_baseline_config(where).model
    device = SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        drawing_shapes(config),
    )
    return BaselineModel(config, load_params(where / BASELINE_CHECKPOINTS, shapes))


def read_baseline_config(directory: Path) -> BaselineConfig:
    """The config that a baseline was trained with.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    return from_dict(BaselineConfig, load_metadata(directory / BASELINE_CHECKPOINTS)["config"])


def drawing_shapes(config: GANConfig | VAEConfig) -> Any:
    """Shapes of the parameters that drawing needs; nothing is computed."""
    key = jax.random.key(0)
    if isinstance(config, VAEConfig):
        return jax.eval_shape(lambda: init_vae(config, key))
    latents, labels = jnp.zeros((1, config.latent_dim)), example_labels(config)
    return jax.eval_shape(lambda: Generator(config).init(key, latents, labels))["params"]

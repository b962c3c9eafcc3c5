"""What training a tokenizer minimises and shows."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jax.tree_util import Partial

from igpt_jax.config import RunConfig
from igpt_jax.data.images import to_float
from igpt_jax.dtypes import resolve_dtype
from igpt_jax.grid import image_grid, save_png
from igpt_jax.parameters import tokenizer_input
from igpt_jax.partitioning import gather_params
from igpt_jax.programs import decode_tokens, encode_images
from igpt_jax.stored import load_tokenizer
from igpt_jax.tokenizers.adversary import (
    AUTOENCODER,
    DISCRIMINATOR,
    Phase,
    adversarial_loss,
    init_players,
)
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.base import to_pixels
from igpt_jax.tokenizers.codebook import start_codebook
from igpt_jax.tokenizers.discriminators import build_discriminator
from igpt_jax.tokenizers.losses import (
    Distance,
    autoencoder_loss,
    summarize,
)
from igpt_jax.tokenizers.perceptual import LPIPS, laplacian_pyramid_loss, load_lpips
from igpt_jax.training.optimizer import Player
from igpt_jax.training.steps import Batch
from igpt_jax.training.task import Task
from igpt_jax.typing import Array, Float, Params, PRNGKey

NUM_SHOWN = 16  # pictures of each grid while training
LATENTS_A_CODE = 2  # at least, to start a codebook from
START_SIZE = 32  # pictures at once
MAX_START_PARTS = 256


def tokenizer_task(
    config: RunConfig,
    tokenizer: Autoencoder,
    directory: Path,
    distance: Partial,
    start: Path | None = None,
) -> Task:
    """Reconstruction of pictures, with or without a discriminator to please.

    Args:
        config: the run.
        tokenizer: what is trained.
        directory: gets pictures.
        distance: see `perceptual_distance`.
        start: directory of the tokenizer that training starts from; None for random weights.
    """
    trained = Autoencoder(tokenizer.config, dtype=resolve_dtype(config.tokenizer_dtype))
    weights, adversary = config.tokenizer_loss, config.adversary

    def init(key: PRNGKey) -> Params:
        return tokenizer.init(key, tokenizer_input(tokenizer))["params"]

    def reconstruct(distance: Distance, params: Params, batch: Batch, key: PRNGKey | None) -> tuple:
        images, params = to_pixels(batch["image"]), gather_params(params)
        return autoencoder_loss(trained, params, images, weights, key=key, distance=distance)

    def show(params: Params, batch: dict[str, np.ndarray], step: int) -> None:
        images = jnp.asarray(batch["image"][:NUM_SHOWN])
        decoded = decode_tokens(tokenizer, params, encode_images(tokenizer, params, images))
        pairs = np.concatenate([batch["image"][:NUM_SHOWN], np.asarray(decoded)])
        grid = image_grid(pairs, columns=len(images))
        save_png(directory / f"reconstructions-{step:06d}.png", grid, {"step": step})

    def prepare(params: Params, batches: Iterator[dict[str, np.ndarray]], key: PRNGKey) -> Params:
        if start is not None:
            device = SingleDeviceSharding(jax.local_devices()[0])
            return load_tokenizer(tokenizer.config, start, device)[1]
        if "quantizer" not in params:
            return params
        latents = _first_latents(tokenizer, params, batches)
        return start_codebook(tokenizer, params, latents, key)

    alone = Partial(reconstruct, distance)
    if adversary is None:
        return Task("tokenizer", init, alone, prepare, show, summarize=summarize)
    discriminator = build_discriminator(adversary.discriminator, dtype=trained.dtype)

    def init_both(key: PRNGKey) -> Params:
        return init_players(tokenizer, discriminator, tokenizer_input(tokenizer), key)

    def play(phase: Phase, distance: Distance, params: Params, batch: Batch, key: PRNGKey) -> tuple:
        images, params = to_pixels(batch["image"]), gather_params(params)
        return adversarial_loss(
            trained, discriminator, params, images, weights, adversary,
            phase=phase, key=key, distance=distance,
        )  # fmt: skip

    phases = {at: Partial(partial(play, phase), distance) for at, phase in adversary.phases.items()}

    def prepare_both(
        params: Params, batches: Iterator[dict[str, np.ndarray]], key: PRNGKey
    ) -> Params:
        return {**params, AUTOENCODER: prepare(params[AUTOENCODER], batches, key)}

    return Task(
        "tokenizer",
        init_both,
        phases.pop(0),
        prepare_both,
        show,
        later=phases,
        evaluate=alone,
        averaged=lambda params: params[AUTOENCODER],
        summarize=summarize,
        players={
            DISCRIMINATOR: Player(config.discriminator_optimizer, adversary.discriminator_start)
        },
    )


def _first_latents(
    tokenizer: Autoencoder, params: Params, batches: Iterator[dict[str, np.ndarray]]
) -> Float[Array, "n d"]:
    """Latents of the first pictures, enough to start a codebook of distinct codes."""
    run = jax.jit(partial(tokenizer.apply, method="latents"))
    wanted, found = LATENTS_A_CODE * tokenizer.vocab_size, []
    while sum(map(len, found)) < wanted and len(found) < MAX_START_PARTS:
        images = next(batches)["image"]
        for start in range(0, len(images), START_SIZE):
            part: Any = run({"params": params}, to_float(images[start : start + START_SIZE]))
            found.append(np.asarray(part).reshape(-1, part.shape[-1]))
    return jnp.concatenate(found)


def perceptual_distance(config: RunConfig) -> Partial:
    """The perceptual distance that a run's loss asks for, with its weights.

    Raises:
        UserError: the weights cannot be read.
    """
    loss, dtype = config.tokenizer_loss, resolve_dtype(config.tokenizer_dtype)
    if loss.lpips_path is None or not loss.perceptual_weight:
        return Partial(laplacian_pyramid_loss)
    params = load_lpips(loss.lpips_path, loss.lpips_linear_path)

    def distance(params: Params, images: Array, others: Array) -> Array:
        return cast(Array, LPIPS(dtype=dtype).apply({"params": params}, images, others))

    return Partial(distance, params)

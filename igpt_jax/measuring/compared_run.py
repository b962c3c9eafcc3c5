"""What a comparison asks of a run, the same of a GPT, a GAN and a VAE."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.baselines.gan import GANConfig, init_gan
from igpt_jax.baselines.model import BaselineModel
from igpt_jax.baselines.run import BASELINE
from igpt_jax.baselines.stored import is_baseline, load_baseline, read_baseline_config
from igpt_jax.config import RunConfig
from igpt_jax.data.sources import DataConfig, num_frames
from igpt_jax.data.transforms import TransformConfig, deterministic
from igpt_jax.errors import UserError
from igpt_jax.model import Model
from igpt_jax.serialization import first_difference, from_dict, to_dict
from igpt_jax.stored import GPT_CHECKPOINTS, load
from igpt_jax.tokenizers.discriminators import build_discriminator
from igpt_jax.training.checkpoint import load_metadata
from igpt_jax.training.metrics import read_metrics
from igpt_jax.typing import Float, Int, UInt8

Draw = Callable[[Int[np.ndarray, " b"], int], UInt8[np.ndarray, "b h w 3"]]
Judge = Callable[
    [UInt8[np.ndarray, "b h w 3"], Int[np.ndarray, " b"]], Float[np.ndarray, " b"] | None
]


@dataclass(frozen=True)
class ComparedRun:
    """A trained run.

    Attributes:
        name: of its directory.
        kind: GPT, GAN or VAE.
        data: where its pictures came from.
        transform: how they were prepared to be measured.
        is_conditional: whether it is asked for classes.
        draw: (classes, seed) -> as many pictures; a model without classes ignores which.
        judge: (pictures, classes) -> log-likelihood in nats, or None.
        likelihood: the measure that `judge` gives; None for nothing.
        shown_how: what drawing was set to.
        num_kept: parameters that are left after training.
        num_trained: parameters in training.
        stages: what was trained -> directory and batch size.
    """

    name: str
    kind: str
    data: DataConfig
    transform: TransformConfig
    is_conditional: bool
    draw: Draw
    judge: Judge
    likelihood: str | None
    shown_how: str
    num_kept: int
    num_trained: int
    stages: dict[str, tuple[Path, int]]

    @property
    def training(self) -> dict[str, Any]:
        """Seconds and pictures of each stage whose metrics are there; pauses do not count."""
        rows = {name: read_stage(*where) for name, where in self.stages.items()}
        return {name: row for name, row in rows.items() if row is not None}


def open_run(directory: Path, batch_size: int) -> ComparedRun:
    """Opens the run of a GPT, GAN or VAE.

    Raises:
        UserError: no run is there, or one that cannot be compared.
    """
    return (_open_baseline if is_baseline(directory) else _open_gpt)(directory, batch_size)


def _open_baseline(directory: Path, batch_size: int) -> ComparedRun:
    config = read_baseline_config(directory)
    model = dataclasses.replace(load_baseline(directory), batch_size=batch_size)
    is_conditional, is_gan = config.model.num_classes > 0, isinstance(config.model, GANConfig)
    trained = count(model.params)
    if isinstance(config.model, GANConfig):
        sizes = config.model
        trained = count(jax.eval_shape(lambda: init_gan(sizes, jax.random.key(0))))
    return ComparedRun(
        name=directory.name,
        kind="GAN" if is_gan else "VAE",
        data=config.data,
        transform=deterministic(config.transform),
        is_conditional=is_conditional,
        draw=lambda labels, seed: _draw(model, labels, is_conditional, seed),
        judge=lambda images, labels: (
            None if is_gan else model.likelihood_bound(images, labels if is_conditional else None)
        ),
        likelihood=None if is_gan else "pixel_bits_per_dim",
        shown_how="as drawn" if is_gan else "means of sub-pixels",
        num_kept=count(model.params),
        num_trained=trained,
        stages={BASELINE: (directory / BASELINE, config.training.global_batch_size)},
    )


def _open_gpt(directory: Path, batch_size: int) -> ComparedRun:
    config = from_dict(RunConfig, load_metadata(directory / GPT_CHECKPOINTS)["config"])
    if num_frames(config.data) > 1 or config.gpt.kinds not in ((), ("labels",)):
        asked = "videos" if num_frames(config.data) > 1 else ", ".join(config.gpt.kinds)
        raise UserError(
            f"{directory}: expected a run that draws pictures by class or by nothing, as its "
            f"competitors do, got one of {asked}"
        )
    model = dataclasses.replace(load(directory), batch_size=batch_size)
    is_conditional = config.gpt.num_classes > 0
    sampling = config.sampling
    kept = count(model.tokenizer_params) + count(model.params)
    return ComparedRun(
        name=directory.name,
        kind="GPT",
        data=config.data,
        transform=deterministic(config.transform),
        is_conditional=is_conditional,
        draw=lambda labels, seed: _draw(model, labels, is_conditional, seed),
        judge=lambda images, labels: model.log_likelihood(
            images, labels if is_conditional else None
        ),
        likelihood="token_bits_per_dim",
        shown_how=f"temperature {sampling.temperature}, guidance {sampling.cfg_scale}",
        num_kept=kept,
        num_trained=kept + _adversary_size(config),
        stages={
            "tokenizer": (directory / "tokenizer", config.tokenizer_training.global_batch_size),
            "gpt": (directory / "gpt", config.gpt_training.global_batch_size),
        },
    )


def _draw(
    model: Model | BaselineModel, labels: Int[np.ndarray, " b"], is_conditional: bool, seed: int
) -> UInt8[np.ndarray, "b h w 3"]:
    asked = labels if is_conditional else None
    return model.sample(asked, num_images=len(labels), seed=seed)


def _adversary_size(config: RunConfig) -> int:
    """Parameters of the discriminator that the tokenizer learned against."""
    if config.adversary is None:
        return 0
    size = config.transform.image_size
    module = build_discriminator(config.adversary.discriminator)
    images = jnp.zeros((1, size, size, 3))
    return count(jax.eval_shape(lambda: module.init(jax.random.key(0), images))["params"])


def count(params: Any) -> int:
    """How many numbers there are."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def read_stage(directory: Path, batch_size: int) -> dict[str, float] | None:
    """`seconds` that the updates of one stage took, and `pictures` that they saw.

    Measurements, checkpoints and interruptions between updates do not count, the compilation of the
    training step does. None where nothing was trained.
    """
    if not (directory / "metrics.jsonl").is_file():
        return None
    seconds, before = 0.0, 0
    for row in read_metrics(directory, "train"):
        seconds += (row["step"] - before) * batch_size / row["images_per_second"]
        before = row["step"]
    return {"seconds": seconds, "pictures": before * batch_size}


def check_same_data(runs: list[ComparedRun]) -> None:
    """Refuses runs that learned from different pictures.

    Raises:
        UserError: names the first field that differs.
    """
    first = {"data": to_dict(runs[0].data), "transform": to_dict(runs[0].transform)}
    for run in runs[1:]:
        other = {"data": to_dict(run.data), "transform": to_dict(run.transform)}
        different = first_difference(first, other)
        if different:
            raise UserError(
                f"{run.name}: expected the pictures of {runs[0].name}, got others ({different} "
                "differs); compare runs of the same data"
            )

"""The run of a baseline: training, then samples; what is done is skipped."""

from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.baselines.model import BaselineModel
from igpt_jax.baselines.stored import BASELINE_CHECKPOINTS, load_baseline
from igpt_jax.baselines.task import baseline_task
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.examples import Source
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import card_accuracy
from igpt_jax.grid import image_grid, save_png
from igpt_jax.logged import measured_at
from igpt_jax.results import once
from igpt_jax.sampling.output import complete_settings
from igpt_jax.serialization import to_dict
from igpt_jax.starting import check_stage, claim, open_both, picture_batches
from igpt_jax.training.checkpoint import latest_step
from igpt_jax.training.loop import train
from igpt_jax.training.sharding import make_mesh

BASELINE = "baseline"
ROW_NAMES = ("step", "split", "time", "loss")  # of a row of metrics, not of what is measured


def run_baseline(config: BaselineConfig, workdir: Path) -> dict[str, Any]:
    """Trains a GAN or VAE, or goes on where an earlier run stopped, and draws its samples.

    Args:
        config: the run.
        workdir: gets `config.json`, `baseline/`, `samples.png` and `result.json`.

    Returns:
        The result: the last validation metrics, and for playing cards the share that reads as
        asked.

    Raises:
        UserError: what is wrong and what to do.
    """
    mesh = make_mesh(config.mesh)
    sources = open_both(config.data)
    _check_classes(config, sources["train"])
    check_stage("training", config.training, mesh, sources)
    claim(config, workdir)
    last = latest_step(workdir / BASELINE_CHECKPOINTS)
    size = config.training.global_batch_size
    if last is None or last < config.training.num_steps:
        train(
            baseline_task(config, workdir / BASELINE),
            config.training,
            train_data=picture_batches(config, sources["train"], "train", size),
            validation_data=picture_batches(config, sources["validation"], "validation", size),
            directory=workdir / BASELINE,
            mesh=mesh,
            seed=config.seed,
            metadata={"config": to_dict(config)},
            wandb_project=config.wandb_project,
        )
    return _samples(config, workdir, sources["train"])


def _check_classes(config: BaselineConfig, source: Source) -> None:
    if config.model.num_classes not in (0, source.num_classes):
        raise UserError(
            f"model.num_classes: expected the data's {source.num_classes} (or 0 for a model "
            f"without classes), got {config.model.num_classes}"
        )


def _samples(config: BaselineConfig, workdir: Path, source: Source) -> dict[str, Any]:
    """Draws the final pictures and writes the result."""
    step = latest_step(workdir / BASELINE_CHECKPOINTS)
    return once(
        workdir / "result.json",
        {"step": step, "samples": to_dict(config.samples)},
        lambda: (load_baseline(workdir), measured_at(step, workdir / BASELINE)),
        lambda trained: _drawn(config, workdir, source, trained),
    )


def _drawn(
    config: BaselineConfig,
    workdir: Path,
    source: Source,
    trained: tuple[BaselineModel, dict[str, Any]],
) -> dict[str, Any]:
    loaded, measured = trained
    model = BaselineModel(loaded.config, loaded.params, config.samples.batch_size)
    labels, names, count = None, None, config.samples.num_images
    if config.model.num_classes:
        labels = list(range(config.model.num_classes)) * config.samples.num_per_class
        names, count = [source.class_names[label] for label in labels], len(labels)
    images = model.sample(labels, num_images=count, seed=config.seed)
    grid = image_grid(images, config.samples.columns or None, names)
    made_by = complete_settings({"seed": config.seed}, labels, count)
    save_png(workdir / "samples.png", grid, {"images": made_by})
    kept = {name: measured[name] for name in measured if name not in ROW_NAMES}
    result = {"workdir": str(workdir), **kept}
    result |= {"samples": str(workdir / "samples.png"), "num_samples": count}
    if isinstance(config.data, CardsConfig) and labels is not None:
        result["card_accuracy"] = card_accuracy(images, np.asarray(labels))
    return result

"""The run of fine-tuning: training, then all validation pictures; what is done is skipped."""

from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from igpt_jax.data.examples import Source, Split
from igpt_jax.data.few import few_of_each_class
from igpt_jax.errors import UserError
from igpt_jax.evaluation.recognition import confusion, mistakes
from igpt_jax.finetuning.classifier import (
    CLASSIFIER_CHECKPOINTS,
    Classifier,
    build_parts,
    load_classifier,
    null_row,
)
from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.finetuning.task import Frozen, finetune_task
from igpt_jax.grid import save_png
from igpt_jax.measuring.pictures import all_pictures, read_pictures
from igpt_jax.mirror import find_directory
from igpt_jax.model import Model
from igpt_jax.results import once
from igpt_jax.serialization import to_dict
from igpt_jax.starting import check_stage, claim, open_both, picture_batches
from igpt_jax.stored import TOKENIZER_CHECKPOINTS, load
from igpt_jax.training.checkpoint import latest_step, save_params
from igpt_jax.training.loop import train
from igpt_jax.training.sharding import make_mesh, replicated
from igpt_jax.training.shares import own_mesh

CLASSIFIER: Final = "classifier"


def run_finetuning(config: FinetuneConfig, workdir: Path) -> dict[str, Any]:
    """Fine-tunes a GPT, or goes on where an earlier run stopped, and measures it.

    Args:
        config: the run.
        workdir: gets `config.json`, `tokenizer/`, `classifier/`, `mistakes.png` and `result.json`.

    Returns:
        The share of all validation pictures that is recognised, the mean cross-entropy in nats, and
        the confusion matrix, rows the true classes.

    Raises:
        UserError: what is wrong and what to do.
    """
    mesh = make_mesh(config.mesh)
    sources = open_both(config.data)
    names = sources["train"].class_names
    if len(names) < 2:
        raise UserError("data: expected pictures of two or more classes, got one")
    if config.per_class is not None:
        sources["train"] = few_of_each_class(sources["train"], config.per_class, config.seed)
    check_stage("training", config.training, mesh, sources)
    last = latest_step(workdir / CLASSIFIER_CHECKPOINTS)
    if last is None or last < config.training.num_steps:
        model = load(find_directory(config.pretrained))
        _check(config, model)
        claim(config, workdir)
        _train(config, workdir, model, sources, names, mesh)
    return _measured(config, workdir, sources["validation"])


def _check(config: FinetuneConfig, model: Model) -> None:
    if config.transform.image_size != model.tokenizer.image_size:
        raise UserError(
            f"transform.image_size: expected the tokenizer's {model.tokenizer.image_size}, got "
            f"{config.transform.image_size}"
        )


def _train(
    config: FinetuneConfig,
    workdir: Path,
    model: Model,
    sources: dict[Split, Source],
    names: tuple[str, ...],
    mesh: jax.sharding.Mesh,
) -> None:
    parts = build_parts(config, model.config, model.tokenizer, len(names))
    metadata = {
        "config": to_dict(config), "model": to_dict(model.config), "class_names": list(names)
    }  # fmt: skip
    if latest_step(workdir / TOKENIZER_CHECKPOINTS) is None:
        save_params(workdir / TOKENIZER_CHECKPOINTS, model.tokenizer_params, metadata)
    whole, size = replicated(own_mesh(mesh)), config.training.global_batch_size
    frozen = Frozen(model.tokenizer_params, null_row(parts.gpt.config, model.config.attributes))
    train(
        finetune_task(
            config,
            parts,
            jax.device_put(frozen, whole),
            None if config.from_scratch else lambda: model.params,
        ),
        config.training,
        train_data=picture_batches(config, sources["train"], "train", size),
        validation_data=picture_batches(config, sources["validation"], "validation", size),
        directory=workdir / CLASSIFIER,
        mesh=mesh,
        seed=config.seed,
        metadata=metadata,
        wandb_project=config.wandb_project,
    )


def _measured(config: FinetuneConfig, workdir: Path, source: Source) -> dict[str, Any]:
    """Recognises all validation pictures and writes the result."""
    return once(
        workdir / "result.json",
        latest_step(workdir / CLASSIFIER_CHECKPOINTS),
        lambda: load_classifier(workdir),
        lambda classifier: _recognised(config, workdir, source, classifier),
    )


def _recognised(
    config: FinetuneConfig, workdir: Path, source: Source, classifier: Classifier
) -> dict[str, Any]:
    reading = {"num_threads": config.num_threads, "max_broken_share": config.max_broken_share}
    images, labels = all_pictures(read_pictures(source, config.transform, **reading))
    shares = classifier.predict(images)
    names = classifier.class_names
    save_png(workdir / "mistakes.png", mistakes(images, labels, shares, names))
    of_true = np.take_along_axis(shares, labels[:, None], axis=1)
    return {
        "workdir": str(workdir),
        "accuracy": float((shares.argmax(axis=1) == labels).mean()),
        "class_loss": float(-np.log(np.maximum(of_true, np.finfo(np.float32).tiny)).mean()),
        "num_validation": len(labels),
        "confusion": confusion(labels, shares.argmax(axis=1), len(names)).tolist(),
    }

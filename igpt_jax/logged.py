"""What a run's own measurements on the validation split say."""

from pathlib import Path
from typing import Any

from igpt_jax.errors import UserError
from igpt_jax.stored import GPT_CHECKPOINTS
from igpt_jax.training.checkpoint import latest_step, load_metadata
from igpt_jax.training.metrics import read_metrics


def measured_at(step: int | None, directory: Path, *, or_before: bool = False) -> dict[str, Any]:
    """The row of the validation split that was measured of a checkpoint.

    Args:
        step: of the checkpoint.
        directory: of its stage, with `metrics.jsonl`.
        or_before: take the last row up to that step where it has none.

    Raises:
        UserError: there is none: the machine was lost first, or a scheduler stopped the training.
    """
    if (directory / "metrics.jsonl").is_file():
        for row in reversed(read_metrics(directory, "validation")):
            if row["step"] == step or (or_before and row["step"] < (step or 0)):
                return row
    raise UserError(
        f"{directory}/metrics.jsonl: expected a row of the validation split of step {step}, which "
        "the newest checkpoint is of, found none; train on, or where training is done delete "
        f"{directory.name}/checkpoints/{step} to train again from the one before"
    )


def logged_losses(directory: Path, *, is_done: bool) -> dict[str, float]:
    """The last validation losses of a run, and the share by which they are under the entropy.

    Args:
        directory: of the run.
        is_done: whether its training has ended, so that they must be of its newest checkpoint; of
            one that was stopped, they may be of an earlier step.

    Returns:
        The `step` that was measured; `nats_per_token` and `bits_per_dim` of pictures,
        `marginal_entropy` of the training tokens in nats, `gain` over it; of models with captions
        `nats_per_caption_token`, too.

    Raises:
        UserError: nothing was measured.
    """
    step = latest_step(directory / GPT_CHECKPOINTS)
    last = measured_at(step, directory / "gpt", or_before=not is_done)
    entropy = load_metadata(directory / GPT_CHECKPOINTS)["marginal_entropy"]
    nats = last.get("picture_nats", last["loss"])
    result = {
        "step": last["step"],
        "nats_per_token": nats,
        "bits_per_dim": last["bits_per_dim"],
        "marginal_entropy": entropy,
        "gain": 1 - nats / entropy,
    }
    if "caption_nats" in last:
        result["nats_per_caption_token"] = last["caption_nats"]
    return result

"""What a run's own measurements on the validation split say."""

from pathlib import Path

from igpt_jax.stored import GPT_CHECKPOINTS
from igpt_jax.training.checkpoint import load_metadata
from igpt_jax.training.metrics import read_metrics


def logged_losses(directory: Path) -> dict[str, float]:
    """The last validation losses of a run, and the share by which they are under the entropy.

    Returns:
        `nats_per_token` and `bits_per_dim` of pictures, `marginal_entropy` of the training tokens
        in nats, `gain` over it; of models with captions `nats_per_caption_token`, too.
    """
    last = read_metrics(directory / "gpt", "validation")[-1]
    entropy = load_metadata(directory / GPT_CHECKPOINTS)["marginal_entropy"]
    nats = last.get("picture_nats", last["loss"])
    result = {
        "nats_per_token": nats,
        "bits_per_dim": last["bits_per_dim"],
        "marginal_entropy": entropy,
        "gain": 1 - nats / entropy,
    }
    if "caption_nats" in last:
        result["nats_per_caption_token"] = last["caption_nats"]
    return result

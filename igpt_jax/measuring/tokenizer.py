"""`igpt evaluate`: measures what a run has trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.asking import check_count
from igpt_jax.config import RunConfig
from igpt_jax.data.examples import Split
from igpt_jax.data.sources import open_source
from igpt_jax.evaluation.reconstruction import evaluate_tokenizer
from igpt_jax.grid import image_grid, save_png
from igpt_jax.jsonfile import write_json
from igpt_jax.measuring.features import choose_extractor
from igpt_jax.measuring.pictures import read_pictures
from igpt_jax.programs import decode_tokens, encode_images
from igpt_jax.serialization import from_dict
from igpt_jax.stored import TOKENIZER_CHECKPOINTS, load_tokenizer
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.perceptual import load_lpips
from igpt_jax.training.checkpoint import load_metadata
from igpt_jax.typing import UInt8

NUM_SHOWN = 16
COLUMNS = 8  # few enough for a phone


def evaluate(
    directory: Path,
    *,
    split: Split = "validation",
    num_images: int | None = None,
    batch_size: int = 64,
    lpips: str | None = None,
    lpips_linear: str | None = None,
    inception: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measures a run's tokenizer on its own data, and shows originals above reconstructions.

    Args:
        directory: the run.
        split: which pictures.
        num_images: so many of them, the same ones each time; None for all.
        batch_size: pictures at once.
        lpips: weights of LPIPS' VGG16, file or hub:ORG/NAME/FILE.
        lpips_linear: weights of its linear layers, where the first file has none.
        inception: weights of FID's Inception, to measure rFID.
        out: directory of `reconstructions.png` and `tokenizer.json`; DIR/evaluation by default.

    Returns:
        What `evaluate_tokenizer` measures, the split and the picture's path.

    Raises:
        UserError: no run is there, or a file cannot be read.
    """
    check_count("num_images", num_images)
    check_count("batch_size", batch_size)
    config = from_dict(RunConfig, load_metadata(directory / TOKENIZER_CHECKPOINTS)["config"])
    perceptual = None if lpips is None else load_lpips(lpips, lpips_linear)
    extractor = None
    if inception is not None:
        extractor = choose_extractor(inception, {}, batch_size=batch_size)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tokenizer, params = load_tokenizer(config.tokenizer, directory, device)
    levels = tokenizer.config.num_levels if isinstance(tokenizer, Autoencoder) else 1
    measured = evaluate_tokenizer(
        tokenizer,
        params,
        pictures(config, split, num_images, batch_size),
        num_levels=levels,
        lpips=perceptual,
        extractor=extractor,
    )
    out = out or directory / "evaluation"
    shown = next(pictures(config, split, NUM_SHOWN, NUM_SHOWN))
    shown = shown[: len(shown) // COLUMNS * COLUMNS or len(shown)]
    tokens = encode_images(tokenizer, params, jnp.asarray(shown))
    decoded = np.asarray(decode_tokens(tokenizer, params, tokens))
    parts = range(0, len(shown), COLUMNS)
    rows = [each[start : start + COLUMNS] for start in parts for each in (shown, decoded)]
    grid = image_grid(np.concatenate(rows), columns=min(COLUMNS, len(shown)))
    save_png(out / "reconstructions.png", grid, {"split": split})
    write_json(out / "tokenizer.json", {"split": split, **measured})
    return {"split": split, **measured, "picture": str(out / "reconstructions.png")}


def pictures(
    config: RunConfig, split: Split, num_images: int | None, batch_size: int
) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
    """Batches of a split's pictures, prepared without randomness; the last one may be short."""
    batches = read_pictures(
        open_source(config.data, split),
        config.transform,
        num_images,
        batch_size=batch_size,
        seed=config.seed,
        num_threads=config.num_threads,
        max_broken_share=config.max_broken_share,
    )
    return (batch.images for batch in batches)

"""The pictures that a run draws at its end, and how faithful they are."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config import RunConfig
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.examples import Source
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.items import shown
from igpt_jax.data.video_files import contact_sheet
from igpt_jax.evaluation.card_reader import card_accuracy
from igpt_jax.evaluation.faithfulness import card_faithfulness
from igpt_jax.grid import image_grid, save_png
from igpt_jax.model import Model
from igpt_jax.models.gpt import GPT
from igpt_jax.sampling.output import complete_settings
from igpt_jax.typing import UInt8


def draw_samples(model: Model, config: RunConfig, path: Path, source: Source) -> dict[str, Any]:
    """Draws pictures of every class, or of what validation pictures ask for; writes their grid.

    Cards are read back.

    Args:
        model: what draws.
        config: the run.
        path: of the grid.
        source: the validation pictures.

    Returns:
        The path, the number of pictures, and how many cards show what was asked for.
    """
    num_classes, gpt = config.gpt.num_classes, config.gpt
    asked: dict[str, Any] = {}
    count, names = config.samples.num_images, None
    examples: list[Mapping[str, Any]] = []
    if gpt.kinds not in ((), ("labels",)):
        examples = list(islice(askable(model, source, range(len(source))), count))
    if gpt.kinds == ("labels",):
        labels = list(range(num_classes)) * config.samples.num_per_class
        asked["labels"], count = labels, len(labels)
        names = [source.class_names[label] for label in labels]
    elif gpt.kinds:
        count = len(examples)
    rows = examples
    beside: list[np.ndarray] = []
    if gpt.kinds != ("labels",):
        asked, views = asked_by(config, rows)
        names = asked.get("text")
        if gpt.cond_image:
            beside = [views["cond_image"], views["image"]]
    images = model.sample(**asked, num_images=count, seed=config.seed)
    settings = {**dataclasses.asdict(config.sampling), "seed": config.seed}
    made_by = complete_settings(settings, asked.get("labels"), count)
    for entry, text in zip(made_by, asked.get("text", []), strict=False):
        entry["text"] = text
    save_png(path, _grid(images, config.samples.columns, names, beside), {"images": made_by})
    result: dict[str, Any] = {"samples": str(path), "num_samples": len(images)}
    if isinstance(config.data, CardsConfig) and gpt.kinds == ("labels",):
        result["card_accuracy"] = card_accuracy(images, np.asarray(asked["labels"]))
    elif isinstance(source, CardSource) and asked:
        cards = [source.card(row["index"]) for row in rows]
        result |= {f"card_{k}": v for k, v in card_faithfulness(images, cards).items()}
    return result


def asked_by(
    config: RunConfig, rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, UInt8[np.ndarray, "b *t s s 3"]]]:
    """What examples ask of a model, as `Model.sample` takes it.

    Args:
        config: the run.
        rows: examples of its source.

    Returns:
        What is asked; and, where pictures are made from others, both as the model is shown them.
    """
    gpt, asked = config.gpt, dict[str, Any]()
    views = shown(rows, config.transform, config.cond_image) if gpt.cond_image else {}
    if gpt.num_classes:
        asked["labels"] = [row["label"] for row in rows]
    if gpt.caption_len or gpt.text_len:
        asked["text"] = [row["caption"] for row in rows]
    if gpt.attribute_sizes:
        asked["attributes"] = [row["attributes"] for row in rows]
    if gpt.cond_image:
        asked |= {"cond_images": views["cond_image"], "cond_is_made": True}
    return asked, views


def readable(source: Source, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The examples that are not damaged, with their index."""
    for index in indices:
        with contextlib.suppress(BrokenImageError):
            yield {**source[index], "index": index}


def askable(model: Model, source: Source, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The examples that are not damaged, with their index and captions as training cuts them."""
    gpt, captions = model.gpt, model.caption_tokenizer
    for example in readable(source, indices):
        if captions is not None and isinstance(gpt, GPT):
            cut, _ = captions.encode([example["caption"]], gpt.config.caption_len)
            [example["caption"]] = captions.decode(cut)
        yield example


def _grid(
    images: np.ndarray, columns: int, names: list[str] | None, beside: list[np.ndarray]
) -> np.ndarray:
    """Videos a row each; pictures made from others between these and the originals."""
    if images.ndim == 5:
        return contact_sheet(images)
    if beside:
        conditions, originals = beside
        rows = np.stack([conditions, images, originals], axis=1)
        return image_grid(rows.reshape(-1, *images.shape[1:]), columns=12)
    return image_grid(images, columns or None, names)

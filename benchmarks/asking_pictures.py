"""Draws the pictures of docs/asking.md from the runs of its configs; no cell is chosen.

    IGPT_DATA=/folder python benchmarks/asking_pictures.py --runs runs --out docs

Runs that are not there are left out.
"""

import argparse
from pathlib import Path

import numpy as np

import igpt_jax
from igpt_jax.config import RunConfig
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.sources import open_source
from igpt_jax.data.video_files import contact_sheet
from igpt_jax.evaluation.completion import hidden_mask, number_box
from igpt_jax.grid import image_grid, save_png
from igpt_jax.measuring.answers import prepared
from igpt_jax.model import Model
from igpt_jax.serialization import from_dict
from igpt_jax.stored import GPT_CHECKPOINTS
from igpt_jax.training.checkpoint import load_metadata

CARD_TEXTS = (
    "a red card of hearts with the number 42 in the centre",
    "playing card: spades, blue, 7 at the top and 100 at the bottom",
    "a green diamonds card on a walnut table, with the numbers 15 at the top and 86 in the centre",
    "a card of clubs that shows 3 at the top, 64 in the centre and 91 at the bottom, "
    "printed in black",
    "一张黑色的黑桃牌，中间写着数字58",
    "扑克牌：红桃，红色，上方是7，下方是100",
    "酒红色的桌面上放着一张蓝色的梅花牌，中间写着数字36，下方写着数字20",
    "一张用绿色印制的方块扑克牌，上方是11，中间是79，下方是4",
)
EMOJI_TEXTS = (
    "red heart",
    "smiling face with sunglasses",
    "crying face",
    "ukraine flag",
    "japan flag",
    "green book",
    "clock face five oclock",
    "woman with red hair",
    "man firefighter",
    "large blue square",
    "fish",
    "tree",
)


def enlarged(pictures: np.ndarray, zoom: int) -> np.ndarray:
    """Every pixel as a square of `zoom` pixels."""
    return pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)


def texts(model: Model, config: RunConfig) -> np.ndarray:
    """Pictures above their texts, each text twice; cards above the number of their text."""
    is_cards = isinstance(config.data, CardsConfig)
    asked, columns = (CARD_TEXTS, 8) if is_cards else (EMOJI_TEXTS, 6)
    names = [str(i + 1) for i in range(len(asked))] if is_cards else list(asked)
    order = np.arange(len(asked)).reshape(-1, 1, columns).repeat(2, axis=1).ravel()
    drawn = model.sample(text=[asked[i] for i in order], seed=0)
    return image_grid(enlarged(drawn, 1 if is_cards else 2), columns, [names[i] for i in order])


def completed(model: Model, config: RunConfig, count: int = 8) -> np.ndarray:
    """Rows of cards with a half of their number hidden, each above what was drawn into it."""
    source = open_source(config.data, "validation")
    assert isinstance(source, CardSource)
    images = prepared(config, source, range(count))["image"]
    rows = []
    for part in ("left", "right", "centre"):
        boxes = [number_box(source.card(i)) for i in range(count)]
        grid = model.tokenizer.grid_shape
        masks = np.stack([hidden_mask(images.shape[1], grid, part, box) for box in boxes])
        rows += [np.where(masks[..., None], np.uint8(128), images)]
        rows += [model.sample(images=images, mask=masks, seed=0)]
    return image_grid(np.concatenate(rows), count)


def made(model: Model, config: RunConfig, count: int = 12) -> np.ndarray:
    """A row of what was known, one of the true pictures and two of what was drawn."""
    source = open_source(config.data, "validation")
    spread = range(0, len(source), len(source) // count)[:count]
    views = prepared(config, source, spread)
    known = {"cond_images": views["cond_image"], "cond_is_made": True}
    drawn = [model.sample(**known, seed=seed) for seed in (0, 1)]
    rows = np.concatenate([views["cond_image"], views["image"], *drawn])
    return image_grid(enlarged(rows, 2), count)


def counting(model: Model, config: RunConfig) -> np.ndarray:
    """A row of frames for each of three first numbers, then for each of three first frames."""
    source = open_source(config.data, "validation")
    first = prepared(config, source, range(3))["image"][:, 0]
    asked = model.sample(labels=[7, 38, 86], seed=0)
    return contact_sheet(np.concatenate([asked, model.sample(images=first, seed=0)]))


PICTURES = {
    "cards_text": texts,
    "cards_inpaint": completed,
    "twemoji": texts,
    "cifar10_colour": made,
    "cifar10_superres": made,
    "cards_video": counting,
}


def main() -> None:
    """Draws what there is a run for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    for name, draw in PICTURES.items():
        run = args.runs / name
        if not (run / GPT_CHECKPOINTS).is_dir():
            continue
        config = from_dict(RunConfig, load_metadata(run / GPT_CHECKPOINTS)["config"])
        path = args.out / f"asking_{name}.png"
        save_png(path, draw(igpt_jax.load(run), config))
        print(path)


if __name__ == "__main__":
    main()

"""`igpt evaluate --compare RUN RUN RUN`: one measure for a GPT, a GAN and a VAE."""

import dataclasses
import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.items import to_picture
from igpt_jax.data.pipeline import make_dataset
from igpt_jax.data.sources import open_source
from igpt_jax.errors import UserError
from igpt_jax.jsonfile import write_json
from igpt_jax.measuring.compared_run import ComparedRun, check_same_data, open_run
from igpt_jax.measuring.compared_sets import (
    NEIGHBOURS,
    PictureSet,
    compare_sets,
    condition_measures,
    open_extractor,
    picture_set,
)
from igpt_jax.measuring.comparison_page import write_page
from igpt_jax.serialization import to_dict
from igpt_jax.typing import Int, UInt8

NUM_IMAGES = 512  # where nothing else is said: a GPT over pixels draws slowly
NUM_SHOWN = 24
ROUNDS = 3  # of timing
TOLD = ("fid", "frechet_distance", "coverage", "card_accuracy", "class_agreement",
        "seconds_a_picture")  # fmt: skip


def compare(
    directories: Sequence[Path],
    *,
    split: Split = "validation",
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    inception: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measures runs that learned from the same pictures, and shows them side by side.

    Every model draws as many pictures as it is compared with, of their classes and of one seed.
    Pictures of the other split are measured, too: what a perfect model would reach.

    Args:
        directories: of the runs.
        split: whose pictures the drawn ones are compared with.
        num_images: so many; None for 512, or all if there are fewer.
        batch_size: pictures at once; also what sampling is timed with.
        seed: of what is drawn, and of which pictures are taken.
        inception: weights of FID's Inception; without them a network of random weights is the
            measure, which gives no FID.
        out: directory of `compare.json` and `compare.html`; ./comparison by default.

    Returns:
        The files, and the main numbers of each run, as `RUN.MEASURE`.

    Raises:
        UserError: fewer than two runs, other data, or too few pictures.
    """
    if len(directories) < 2:
        raise UserError(f"--compare: expected two or more runs, got {len(directories)}")
    for name, value in (("num_images", num_images), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name}: expected 1 or more, got {value}")
    runs = _named([open_run(directory, batch_size) for directory in directories], directories)
    check_same_data(runs)
    transform, other_split = runs[0].transform, _other(split)
    sources = {name: open_source(runs[0].data, name) for name in (split, other_split)}
    count = min(num_images or NUM_IMAGES, *map(len, sources.values()))
    extractor = open_extractor(inception, transform.image_size)
    real, reference = (
        picture_set(*take_pictures(runs[0], source, count, seed), extractor, batch_size)
        for source in sources.values()
    )
    drawn = [
        picture_set(run.draw(real.labels, seed), real.labels, extractor, batch_size) for run in runs
    ]
    times = sampling_times(runs, real.labels[:batch_size], seed)
    are_cards = _are_cards(runs[0])
    rows = [
        measure_run(run, pictures, real, reference, extractor.name, are_cards)
        | {"seconds_a_picture": seconds}
        for run, pictures, seconds in zip(runs, drawn, times, strict=True)
    ]
    perfect = {
        "name": f"{other_split} pictures",
        "kind": "data",
        **compare_sets(real.features, reference.features, extractor.name),
        **condition_measures(real, reference, are_cards),
    }
    result = {
        "data": to_dict(runs[0].data),
        "split": split,
        "num_images": count,
        "seed": seed,
        "batch_size": batch_size,
        "features": extractor.name,
        "neighbours": NEIGHBOURS,
        "reference": perfect,
        "runs": rows,
    }
    out = Path("comparison") if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", result)
    shown = np.argsort(real.labels[:NUM_SHOWN], kind="stable")
    names = sources[split].class_names if any(run.is_conditional for run in runs) else ()
    captions = [names[label] for label in real.labels[shown]] if names else None
    grids = {f"{split} pictures": real.images[shown]}
    grids |= {run.name: each.images[shown] for run, each in zip(runs, drawn, strict=True)}
    write_page(out / "compare.html", result, grids, captions)
    told = {f"{row['name']}.{key}": row[key] for row in rows for key in TOLD if key in row}
    files = {"page": str(out / "compare.html"), "json": str(out / "compare.json")}
    return {**files, "num_images": count, "features": extractor.name, **told}


def measure_run(
    run: ComparedRun,
    drawn: PictureSet,
    real: PictureSet,
    reference: PictureSet,
    features: str,
    are_cards: bool,
) -> dict[str, Any]:
    """Everything that is told of a run but the time that it draws in."""
    row: dict[str, Any] = {"name": run.name, "kind": run.kind, "shown": run.shown_how}
    row |= compare_sets(real.features, drawn.features, features)
    if run.is_conditional:
        row |= condition_measures(drawn, reference, are_cards)
    nats = run.judge(real.images, real.labels)
    if nats is not None:
        bits = -float(nats.mean()) / math.log(2) / math.prod(real.images.shape[1:])
        row |= {"bits_per_dim": bits, "bits_per_dim_of": run.likelihood}
    return row | {
        "parameters_kept": run.num_kept,
        "parameters_trained": run.num_trained,
        "training": run.training,
    }


def take_pictures(
    run: ComparedRun, source: Source, count: int, seed: int
) -> tuple[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, " n"]]:
    """The first pictures of a split in a shuffled order, so that they are of all classes."""
    batches = make_dataset(
        source,
        transform=to_picture(run.transform, None, 1),
        global_batch_size=count,
        seed=seed,
        shuffle=True,
        num_epochs=1,
        prefetch=count,
        drop_remainder=False,
    )
    batch = next(iter(batches))
    return batch["image"], batch["label"]


def sampling_times(
    runs: Sequence[ComparedRun], labels: Int[np.ndarray, " n"], seed: int
) -> list[float]:
    """Seconds a picture, of a batch of so many, each model's median over rounds.

    All models have drawn such a batch before, so that nothing compiles, and take turns, so that
    what else the machine does meets all of them.
    """
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(ROUNDS):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run.draw(labels, seed + 1 + turn)
            times.append((time.perf_counter() - start) / len(labels))
    return [statistics.median(times) for times in taken]


def _named(runs: Sequence[ComparedRun], directories: Sequence[Path]) -> list[ComparedRun]:
    """The runs with names that differ: where last parts of paths do not, the whole paths."""
    times = Counter(run.name for run in runs)
    if max(Counter(map(str, directories)).values()) > 1:
        raise UserError("--compare: expected different runs, got one of them twice")
    return [
        dataclasses.replace(run, name=str(directory)) if times[run.name] > 1 else run
        for run, directory in zip(runs, directories, strict=True)
    ]


def _other(split: Split) -> Split:
    return "train" if split == "validation" else "validation"


def _are_cards(run: ComparedRun) -> bool:
    """Whether the class of a picture is the one number that can be read off it."""
    return isinstance(run.data, CardsConfig) and run.data.max_numbers == 1

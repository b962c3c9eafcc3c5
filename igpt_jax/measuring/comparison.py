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

from igpt_jax.asking import check_count, check_seed
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.examples import Split
from igpt_jax.data.sources import open_source
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import card_accuracy
from igpt_jax.evaluation.class_agreement import class_agreement
from igpt_jax.evaluation.extractors import Extractor
from igpt_jax.evaluation.generation import FeatureSet, Score, check_enough, score_name
from igpt_jax.evaluation.generation import compare as compare_sets
from igpt_jax.evaluation.random_features import RandomExtractor
from igpt_jax.jsonfile import write_json
from igpt_jax.measuring.compared_run import ComparedRun, check_same_data, open_run
from igpt_jax.measuring.comparison_page import measures, write_page
from igpt_jax.measuring.features import choose_extractor
from igpt_jax.measuring.pictures import Labelled, all_pictures, read_pictures, split_name
from igpt_jax.serialization import to_dict
from igpt_jax.typing import Int

NUM_IMAGES = 512  # where nothing else is said: a GPT over pixels draws slowly
NUM_SHOWN = 24
ROUNDS = 3  # of timing
TOLD = ("gfid", "frechet_distance", "coverage", "card_accuracy", "class_agreement",
        "sampling_seconds")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Side:
    """Pictures, with what is left of their features.

    Attributes:
        pictures: and the classes that they are of or were asked for.
        features: of all of them.
    """

    pictures: Labelled
    features: FeatureSet


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
        inception: weights of FID's Inception; without them a network of random weights is what
            pictures are compared by, and the names of scores say so.
        out: directory of `compare.json` and `compare.html`; ./comparison by default.

    Returns:
        The files, and the main numbers of each run, as `RUN.MEASURE`.

    Raises:
        UserError: fewer than two runs, other data, or too few pictures.
    """
    if len(directories) < 2:
        raise UserError(f"--compare: expected two or more runs, got {len(directories)}")
    check_count("num_images", num_images)
    check_count("batch_size", batch_size)
    check_seed(seed)
    runs = _named([open_run(directory, batch_size) for directory in directories], directories)
    check_same_data(runs)
    prepare, other_split = runs[0].transform, _other(split)
    names: tuple[Split, Split] = (split, other_split)
    sources = [open_source(runs[0].data, name) for name in names]
    count = min(num_images or NUM_IMAGES, *map(len, sources))
    check_enough("num_images", count)
    size = prepare.image_size
    extractor = choose_extractor(
        inception,
        {"random": lambda: RandomExtractor(size, batch_size=batch_size)},
        batch_size=batch_size,
    )
    real, reference = (
        _side(
            split_name(runs[0].data, name),
            all_pictures(read_pictures(source, prepare, count, seed=seed)),
            extractor,
        )
        for name, source in zip(names, sources, strict=True)
    )
    asked = real.pictures.labels
    drawn = [
        _side(f"pictures of {run.name}", Labelled(run.draw(asked, seed), asked), extractor)
        for run in runs
    ]
    are_cards = _are_cards(runs[0])
    perfect = {
        "name": f"{other_split} pictures",
        "kind": "data",
        "scores": _told(compare_sets(reference.features, real.features, seed=seed))
        | _told(condition_scores(real, reference, are_cards)),
    }
    rows = [
        measure_run(run, side, real, reference, are_cards, seed)
        for run, side in zip(runs, drawn, strict=True)
    ]
    times = sampling_times(runs, asked[:batch_size], seed)
    for row, seconds in zip(rows, times, strict=True):
        row["costs"]["sampling_seconds"] = seconds
    result = {
        "data": to_dict(runs[0].data),
        "split": split,
        "against": real.features.name,
        "num_images": len(asked),
        "seed": seed,
        "batch_size": batch_size,
        "features": extractor.name,
        "is_published": extractor.network is not None,
        "perfect": perfect,
        "runs": rows,
    }
    out = Path("comparison") if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", result)
    shown = np.argsort(asked[:NUM_SHOWN], kind="stable")
    class_names = sources[0].class_names if any(run.is_conditional for run in runs) else ()
    captions = [class_names[label] for label in asked[shown]] if class_names else None
    sides = zip((f"{split} pictures", *(run.name for run in runs)), (real, *drawn), strict=True)
    pictures = {name: side.pictures.images[shown] for name, side in sides}
    write_page(out / "compare.html", result, pictures, captions)
    files = {"page": str(out / "compare.html"), "json": str(out / "compare.json")}
    main = {
        f"{row['name']}.{name}": value
        for row in rows
        for name, value in measures(row).items()
        if name.partition("[")[0] in TOLD
    }
    return {**files, "num_images": len(asked), "features": extractor.name, **main}


def _side(name: str, pictures: Labelled, extractor: Extractor) -> Side:
    """Takes in the features of pictures; all are kept, for all are in memory anyway."""
    features = FeatureSet(name, extractor, num_kept=len(pictures.images))
    features.add(pictures.images)
    return Side(pictures, features)


def measure_run(
    run: ComparedRun, drawn: Side, real: Side, reference: Side, are_cards: bool, seed: int
) -> dict[str, Any]:
    """Everything that is told of a run but the time that it draws in."""
    scores = compare_sets(drawn.features, real.features, seed=seed)
    if run.is_conditional:
        scores |= condition_scores(drawn, reference, are_cards)
    likelihood = {}
    nats = run.judge(*real.pictures)
    if nats is not None and run.likelihood is not None:
        bits = -float(nats.mean()) / math.log(2) / math.prod(real.pictures.images.shape[1:])
        likelihood = {run.likelihood: bits}
    stages = run.training
    costs = {"parameters_trained": run.num_trained, "parameters_kept": run.num_kept}
    costs |= {
        f"training_{what}": sum(stage[what] for stage in stages.values())
        for what in ("seconds", "pictures")
        if stages
    }
    return {
        "name": run.name,
        "kind": run.kind,
        "shown": run.shown_how,
        "scores": _told(scores),
        "likelihood": likelihood,
        "costs": costs,
        "training": stages,
    }


def condition_scores(asked: Side, reference: Side, are_cards: bool) -> dict[str, Score]:
    """How well pictures show what was asked for.

    Args:
        asked: pictures, and the classes that they should show.
        reference: pictures of known classes.
        are_cards: whether a number can be read off each picture.

    Returns:
        `card_accuracy`, or else `class_agreement`, which is by features.
    """
    images, labels = asked.pictures
    if are_cards:
        read = card_accuracy(images, labels)
        return {"card_accuracy": Score(read, len(images), "numbers that a program reads")}
    known, extractor = reference.features, asked.features.extractor
    agreement = class_agreement(asked.features.kept, labels, known.kept, reference.pictures.labels)
    score = Score(agreement, len(images), extractor.name, known.name, known.count)
    return {score_name("class_agreement", extractor): score}


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


def _told(scores: dict[str, Score]) -> dict[str, dict[str, Any]]:
    return {name: score.told for name, score in scores.items()}


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

"""The page of a comparison: who is best at what, all measures, and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from igpt_jax.measure_words import better, in_words
from igpt_jax.measuring import page
from igpt_jax.measuring.page import embedded, written
from igpt_jax.typing import UInt8

_TEMPLATE: Final = "comparison.html.jinja"
_ARROWS: Final = {"higher": "↑", "lower": "↓", "": ""}
_GROUPS: Final = {  # the first measure that there is decides who is best
    "Quality": (
        "gfid",
        "frechet_distance",
        "sfid",
        "spatial_frechet_distance",
        "kid",
        "kernel_distance",
        "inception_score",
        "precision",
        "density",
    ),
    "Diversity": ("coverage", "recall"),
    "Faithfulness to the class": ("card_accuracy", "class_agreement"),
    "Sampling": ("sampling_seconds",),
    "Training": (
        "training_seconds",
        "training_pictures",
        "parameters_trained",
        "parameters_kept",
    ),
    "Likelihood": ("pixel_bits_per_dim", "token_bits_per_dim"),
}


def write_page(
    path: Path,
    result: Mapping[str, Any],
    pictures: Mapping[str, UInt8[np.ndarray, "n h w 3"]],
    captions: Sequence[str] | None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: where to.
        result: what `compare` measured.
        pictures: by the names of what they are of, in one order of classes.
        captions: of the pictures; None for none.
    """
    page.write_page(path, _TEMPLATE, content(result, pictures, captions))


def content(
    result: Mapping[str, Any],
    pictures: Mapping[str, UInt8[np.ndarray, "n h w 3"]],
    captions: Sequence[str] | None,
) -> dict[str, Any]:
    """Everything on the page; arguments as of `write_page`."""
    runs, perfect = result["runs"], result["perfect"]
    groups = [
        {"title": title, "rows": [_row(name, runs, perfect) for name in _known(names, runs)]}
        for title, names in _GROUPS.items()
    ]
    kinds = {run["name"]: run["kind"] for run in runs}
    return {
        "title": " against ".join(dict.fromkeys(kinds.values())),
        "introduction": _introduction(result),
        "ranking": _ranking(runs, perfect),
        "heads": [{"name": run["name"], "kind": run["kind"], "is_ideal": False} for run in runs]
        + [{"name": perfect["name"], "kind": perfect["kind"], "is_ideal": True}],
        "groups": [group for group in groups if group["rows"]],
        "ideal_name": perfect["name"],
        "notes": _notes(result),
        "of_pictures": "In every block a place stands for one class."
        if captions
        else "No model was asked for classes.",
        "sets": [
            {"name": name, "kind": kinds.get(name, ""), "pictures": _embedded(images, captions)}
            for name, images in pictures.items()
        ],
    }


def measures(run: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of a run, by name; of scores the values."""
    values = {name: score["value"] for name, score in run["scores"].items()}
    return {**values, **run.get("likelihood", {}), **run.get("costs", {})}


def _base(name: str) -> str:
    return name.partition("[")[0]


def _known(bases: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the measures that a run has, in the given order."""
    names = dict.fromkeys(name for run in runs for name in measures(run))
    return [name for base in bases for name in names if _base(name) == base]


def _best(name: str, runs: Sequence[Mapping[str, Any]]) -> float | None:
    """The best value of those that differ; None where there is none better than another."""
    known = {measures(run)[name] for run in runs if name in measures(run)}
    way = better(name)
    if not way or len(known) < 2:
        return None
    return max(known) if way == "higher" else min(known)


def _row(
    name: str, runs: Sequence[Mapping[str, Any]], perfect: Mapping[str, Any]
) -> dict[str, Any]:
    """A measure of all runs."""
    best, base, cells, notes = _best(name, runs), _base(name), [], []
    for run in runs:
        value, score = measures(run).get(name), run["scores"].get(name, {})
        deviation = score.get("deviation")
        cells.append(
            {
                "value": "–" if value is None else written(base, value),
                "deviation": "" if deviation is None else written(base, deviation),
                "is_best": value is not None and value == best,
            }
        )
        notes.append(score.get("note"))
    ideal = measures(perfect).get(name)
    return {
        "words": in_words(base),
        "better": better(name),
        "arrow": _ARROWS[better(name)],
        "note": "; ".join(dict.fromkeys(note for note in notes if note)),
        "cells": cells,
        "ideal": "" if ideal is None else written(base, ideal),
    }


def _ranking(runs: Sequence[Mapping[str, Any]], perfect: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each group its main measure, and the runs by it, the best one first."""
    ranking = []
    for title, bases in _GROUPS.items():
        names = [name for name in _known(bases, runs) if better(name)]
        known = [run for run in runs if names and names[0] in measures(run)]
        if len(known) < 2:
            continue
        name, base = names[0], _base(names[0])
        best, ideal = _best(name, runs), measures(perfect).get(name)
        known.sort(key=lambda run: measures(run)[name], reverse=better(name) == "higher")
        ranking.append(
            {
                "title": title,
                "words": in_words(base),
                "better": better(name),
                "places": [
                    {
                        "name": run["name"],
                        "kind": run["kind"],
                        "value": written(base, measures(run)[name]),
                        "is_best": measures(run)[name] == best,
                    }
                    for run in known
                ],
                "ideal": "" if ideal is None else written(base, ideal),
            }
        )
    return ranking


def _embedded(
    images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Every picture by itself, so that a page can enlarge it without blurring its caption."""
    return [
        {**embedded(Image.fromarray(image)), "caption": captions[i] if captions else ""}
        for i, image in enumerate(images)
    ]


def _introduction(result: Mapping[str, Any]) -> str:
    not_fid = "" if result["is_published"] else "; these are not FID's features"
    return (
        f"{result['num_images']} pictures of each model (seed {result['seed']}) against as many of "
        f"{result['against']}, by the features of {result['features']}{not_fid}."
    )


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the numbers."""
    ideal = result["perfect"]["name"]
    notes = [
        "Arrows say which way is better; the best run of a row is marked. "
        f"{ideal[0].upper()}{ideal[1:]} stand for a model that draws as the data do; classes of "
        f"the data are those of the {result['split']} pictures.",
        "Distances fall with more pictures, and all scores depend on the features: compare numbers "
        "of this page with each other alone, or with those of equal features, pictures and counts.",
        "A GPT's bits are exact, but of its tokens: what its tokenizer loses is not in them. A "
        "VAE's are of the pixels' bytes, and at most so many (the evidence lower bound). The two "
        "cannot be compared, and a GAN has none.",
        "Training time is that of updates alone, without measurements between them, as "
        f"metrics.jsonl tells it. Sampling: a batch of up to {result['batch_size']} pictures in "
        "this process, the median of several, models taking turns.",
    ]
    agreements = [
        score
        for run in result["runs"]
        for name, score in run["scores"].items()
        if _base(name) == "class_agreement"
    ]
    if agreements:
        notes.append(
            "Nearest real picture: of each drawn one, by the features, among "
            f"{agreements[0]['num_real']} of {agreements[0]['against']}."
        )
    drawn = "; ".join(f"{run['name']}: {run['shown']}" for run in result["runs"])
    return [*notes, f"Drawn as: {drawn}."]

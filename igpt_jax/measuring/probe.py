"""`igpt probe`: what the layers of a trained GPT know of pictures, read out by linear probes."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from scipy.special import softmax

from igpt_jax.config import RunConfig
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.sources import DataConfig, open_source
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError
from igpt_jax.evaluation.linear_probe import (
    LinearProbe,
    best_probe,
    few_of_each,
    neighbour_accuracy,
)
from igpt_jax.evaluation.recognition import confusion, mistakes
from igpt_jax.finetuning.classifier import is_classifier, load_classifier
from igpt_jax.grid import save_png
from igpt_jax.jsonfile import write_json
from igpt_jax.measuring.pictures import Labelled, all_pictures, read_pictures
from igpt_jax.model import Model
from igpt_jax.models.gpt import GPT
from igpt_jax.parameters import generator_inputs
from igpt_jax.sampling.output import read_image
from igpt_jax.serialization import from_dict
from igpt_jax.stored import GPT_CHECKPOINTS, is_stored, load
from igpt_jax.training.checkpoint import load_metadata
from igpt_jax.typing import Float, Int, UInt8

NEIGHBOURS: Final = 20

Look = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b layers d"]]
"""Features of pictures, by layer."""


class Sweep(NamedTuple):
    """Probes of all layers.

    Attributes:
        accuracies: of each layer, on validation pictures.
        layer: the best one on held-out training pictures.
        probe: its probe.
        features: its features of the training pictures, [n d].
        seen: its features of the validation pictures, [q d].
    """

    accuracies: list[float]
    layer: int
    probe: LinearProbe
    features: Float[np.ndarray, "n d"]
    seen: Float[np.ndarray, "q d"]

    @property
    def summary(self) -> dict[str, Any]:
        """What is told of it."""
        best = self.accuracies[self.layer]
        return {"accuracy": best, "best_layer": self.layer, "layers": self.accuracies}


def probe(
    directory: Path,
    *,
    data: str | None = None,
    validation_per_class: int = 0,
    num_train: int | None = None,
    num_validation: int | None = None,
    shots: Sequence[int] = (),
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measures how well each layer of a GPT tells classes apart.

    The layer and the weight decay of each probe are chosen on a tenth of the training pictures;
    accuracies are those of the validation pictures, which nothing is chosen on.

    Args:
        directory: a run, or a directory of `igpt import`.
        data: folder or zip of class folders; None takes the run's own pictures.
        validation_per_class: how many of each class of `data` are set aside.
        num_train: fit to so many random training pictures; None for all.
        num_validation: the same of validation pictures.
        shots: also fit to so many pictures of each class.
        seed: of what is drawn at random.
        out: directory of `probe.json`, `probe.npz`, `sweep.png` and `mistakes.png`; DIR/probe by
            default.

    Returns:
        Accuracies of every layer, of the best layer, of raw pixels, and of a network of the same
        shape with random weights; of nearest neighbours and of few shots with the best layer's
        features; and the confusion matrix, rows the true classes.

    Raises:
        UserError: no GPT is there, or the pictures have one class.
    """
    model = load(directory)
    if not isinstance(model.gpt, GPT):
        raise UserError(f"{directory}: expected a model with a GPT, got another; probe a GPT")
    config, prepare = _data(directory, model, data, validation_per_class)
    sources: dict[Split, Source] = {}
    for split in ("train", "validation"):
        sources[split] = open_source(config, split)
    names = sources["train"].class_names
    if len(names) < 2:
        raise UserError("probe: expected pictures of two or more classes, got one; see --data")
    counts: dict[Split, int | None] = {"train": num_train, "validation": num_validation}
    train, validation = (
        all_pictures(read_pictures(sources[split], prepare, counts[split], seed=seed))
        for split in ("train", "validation")
    )
    looks: dict[str, Look] = {
        "gpt": model.features,
        "random": _with_random_weights(model, seed).features,
        "pixels": lambda images: images.reshape(len(images), 1, -1) / np.float32(127.5) - 1,
    }
    sweeps = {
        name: _sweep(look, train, validation, len(names), seed) for name, look in looks.items()
    }
    best = sweeps["gpt"]
    logits = best.probe.logits(best.seen)
    result: dict[str, Any] = {
        "num_train": len(train.labels),
        "num_validation": len(validation.labels),
        "num_classes": len(names),
        **{name: sweep.summary for name, sweep in sweeps.items()},
        "neighbours": neighbour_accuracy(
            best.features,
            train.labels,
            best.seen,
            validation.labels,
            k=min(NEIGHBOURS, len(train.labels)),
        ),
        "few_shot": {
            str(count): _few_shot(best, train.labels, validation.labels, count, seed)
            for count in shots
        },
        "confusion": confusion(validation.labels, logits.argmax(axis=1), len(names)).tolist(),
    }
    out = out or directory / "probe"
    out.mkdir(parents=True, exist_ok=True)
    shares = softmax(logits, axis=1)
    save_png(out / "mistakes.png", mistakes(validation.images, validation.labels, shares, names))
    _save(out / "probe.npz", best, names)
    _plot(out / "sweep.png", sweeps)
    write_json(out / "probe.json", result)
    return result


def predict(directory: Path, files: Sequence[Path], *, top: int = 5) -> dict[str, dict[str, float]]:
    """Names the classes of pictures, by a fine-tuned GPT or the probe that `probe` left.

    Args:
        directory: a run of fine-tuning, or the run or model that was probed.
        files: pictures of any size; their middle square is looked at.
        top: how many classes.

    Returns:
        For each file its most probable classes with their probabilities, the first one first.

    Raises:
        UserError: nothing was fine-tuned or probed there, or a file is no picture.
    """
    if is_classifier(directory):
        classifier = load_classifier(directory)
        size, names = classifier.parts.tokenizer.image_size, classifier.class_names
        shares = classifier.predict(_read(files, size))
    else:
        names, shares = _by_probe(directory, files)
    return {
        str(file): {names[i]: float(row[i]) for i in np.argsort(-row, kind="stable")[:top]}
        for file, row in zip(files, shares, strict=True)
    }


def _read(files: Sequence[Path], size: int) -> UInt8[np.ndarray, "b h w 3"]:
    return np.stack([read_image(file, size) for file in files])


def _by_probe(directory: Path, files: Sequence[Path]) -> tuple[list[str], Float[np.ndarray, "b c"]]:
    """The classes' names, and how probable each is of each picture."""
    path = directory / "probe" / "probe.npz"
    if not path.is_file():
        raise UserError(f"{path}: expected a probe, found none; run `igpt probe {directory}` first")
    with np.load(path, allow_pickle=False) as stored:
        fitted = LinearProbe(*(stored[name] for name in LinearProbe._fields))
        layer, names = int(stored["layer"]), stored["class_names"].tolist()
    model = load(directory)
    features = model.features(_read(files, model.tokenizer.image_size))[:, layer]
    return names, softmax(fitted.logits(features), axis=1)


def _sweep(look: Look, train: Labelled, validation: Labelled, num_classes: int, seed: int) -> Sweep:
    features, seen = look(train.images), look(validation.images)
    chosen = [
        best_probe(layer, train.labels, num_classes, seed=seed) for layer in features.swapaxes(0, 1)
    ]
    accuracies = [
        each.probe.accuracy(layer, validation.labels)
        for each, layer in zip(chosen, seen.swapaxes(0, 1), strict=True)
    ]
    best = int(np.argmax([each.held_out_accuracy for each in chosen]))
    return Sweep(accuracies, best, chosen[best].probe, features[:, best], seen[:, best])


def _data(
    directory: Path, model: Model, data: str | None, validation_per_class: int
) -> tuple[DataConfig, TransformConfig]:
    """The pictures to probe with, and how they are prepared for the model."""
    size = model.tokenizer.image_size
    if data is not None:
        config = FolderConfig(data, validation_per_class)
        return config, TransformConfig(image_size=size)
    if is_stored(directory):
        raise UserError(f"{directory}: expected --data, as an imported model has no pictures")
    run = from_dict(RunConfig, load_metadata(directory / GPT_CHECKPOINTS)["config"])
    return run.data, run.transform


def _with_random_weights(model: Model, seed: int) -> Model:
    """The same network before any training."""
    assert isinstance(model.gpt, GPT)
    inputs = generator_inputs(model.gpt)
    params = nn.unbox(jax.jit(model.gpt.init)(jax.random.key(seed), *inputs)["params"])
    return dataclasses.replace(model, params=params)


def _few_shot(
    sweep: Sweep,
    labels: Int[np.ndarray, " n"],
    answers: Int[np.ndarray, " q"],
    shots: int,
    seed: int,
) -> float:
    rows = few_of_each(labels, shots, seed)
    num_classes = int(labels.max()) + 1
    chosen = best_probe(sweep.features[rows], labels[rows], num_classes, seed=seed)
    return chosen.probe.accuracy(sweep.seen, answers)


def _save(path: Path, sweep: Sweep, names: Sequence[str]) -> None:
    """Keeps the best probe for `predict`, with its layer and the names of its classes."""
    with path.open("wb") as file:
        np.savez(file, **sweep.probe._asdict(), layer=sweep.layer, class_names=np.array(names))


def _plot(path: Path, sweeps: dict[str, Sweep]) -> None:
    """Accuracy by layer, beside that of raw pixels and of random weights."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, text in (("gpt", "trained"), ("random", "random weights")):
        axes.plot(np.multiply(100, sweeps[name].accuracies), marker="o", label=text)
    pixels = 100 * sweeps["pixels"].accuracies[0]
    axes.axhline(pixels, color="grey", linestyle="--", label="raw pixels")
    axes.set(xlabel="features before block", ylabel="validation accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)

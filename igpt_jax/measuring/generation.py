"""`igpt evaluate --measure generation`: what a run draws, against real pictures."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.asking import Reader, Request, check_count, check_seed
from igpt_jax.config import RunConfig
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.items import shown
from igpt_jax.data.random_words import random_words
from igpt_jax.data.sources import open_source
from igpt_jax.data.video_files import contact_sheet
from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Extractor
from igpt_jax.evaluation.generation import NUM_KEPT, FeatureSet, check_enough, compare
from igpt_jax.evaluation.memorisation import NearestPictures, memorisation
from igpt_jax.evaluation.references import check_suffix, read_reference, write_reference
from igpt_jax.evaluation.run_extractors import GPTExtractor, TokenizerExtractor
from igpt_jax.grid import image_grid, save_png
from igpt_jax.jsonfile import write_json
from igpt_jax.logged import logged_losses
from igpt_jax.measuring.clip_score import ClipScorer
from igpt_jax.measuring.features import FeatureKind, choose_extractor
from igpt_jax.measuring.pictures import split_name
from igpt_jax.model import Model
from igpt_jax.models.gpt import GPT
from igpt_jax.resize import Resize
from igpt_jax.run_samples import askable, asked_by, readable
from igpt_jax.serialization import from_dict
from igpt_jax.stored import GPT_CHECKPOINTS, load
from igpt_jax.training.checkpoint import load_metadata
from igpt_jax.typing import Int, UInt8

NUM_SHOWN = 64  # drawn pictures in the grid
NUM_CHECKED = 256  # drawn pictures whose nearest training pictures are looked for
NUM_COPIES_SHOWN, K_SHOWN = 8, 7  # of these, in the picture
PART = 256  # pictures of one request, which has a seed of its own


def evaluate_generation(
    directory: Path,
    *,
    split: Split = "validation",
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    inception: str | None = None,
    i3d: str | None = None,
    features: FeatureKind = "auto",
    resize: Resize | None = None,
    reference: Path | None = None,
    save_reference: Path | None = None,
    num_train: int | None = None,
    clip: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Draws pictures of a run and measures them; conditions are those of the split's pictures.

    Args:
        directory: the run.
        split: the real pictures, all of them.
        num_images: pictures to draw; None for as many as the split has.
        batch_size: pictures at once.
        seed: of what is drawn, and of KID's subsets.
        inception: weights of FID's Inception, file or hub:ORG/NAME/FILE.
        i3d: weights of FVD's I3D, for videos, likewise.
        features: what pictures are compared by; "auto" is Inception or I3D where weights are given,
            else the tokenizer's latents, or of tokenizers without them the GPT's middle layer.
        resize: how pictures get to the network's size; None for as the reference's were.
        reference: statistics to take Fréchet distances to, see `read_reference`. Its pictures, if
            it has some, also stand for the split's in all other scores.
        save_reference: where to write the split's statistics, to give as `reference` later.
        num_train: training pictures to look for copies among; None for all.
        clip: a CLIP's folder, see `read_clip`, to score pictures by their captions with.
        out: directory of `generation.json`, `generation_samples.png` and `neighbours.png`;
            DIR/evaluation by default.

    Returns:
        Scores by name (see `generation.Score`); `memorisation` (see there); `likelihood`, as the
        run logged it; and how it was measured.

    Raises:
        UserError: no run is there, or a file or setting does not fit.
    """
    for name, value in {
        "num_images": num_images, "batch_size": batch_size, "num_train": num_train
    }.items():  # fmt: skip
        check_count(name, value)
    check_seed(seed)
    if save_reference is not None:
        check_suffix(save_reference)
    config = from_dict(RunConfig, load_metadata(directory / GPT_CHECKPOINTS)["config"])
    wanted = None if reference is None else read_reference(reference)
    likelihood = logged_losses(directory, is_done=False)
    model = dataclasses.replace(load(directory), batch_size=batch_size)
    extractor = choose_extractor(
        inception,
        _extractors(model, str(directory)),
        i3d=i3d,
        num_frames=model.num_frames,
        features=features,
        resize=resize,
        reference=wanted,
        batch_size=batch_size,
    )
    sources: dict[Split, Source] = {
        name: open_source(config.data, name) for name in ("train", "validation")
    }
    count = len(sources[split]) if num_images is None else num_images
    check_enough("num_images", count)
    generated = FeatureSet(f"pictures of {directory}", extractor)
    real = FeatureSet(split_name(config.data, split), extractor)
    asking = (config, sources[split])
    scorer = None if clip is None else ClipScorer(clip, *asking, real.name, batch_size)
    first = _first(generated, _drawn(model, *asking, count, seed, scorer), NUM_CHECKED)
    if wanted is not None and wanted.num_pictures and save_reference is None:
        real.name = f"pictures in {wanted.name}"
        _add_all(real, islice(wanted.pictures(batch_size), -(-NUM_KEPT // batch_size)))
    else:
        needs_all = wanted is None or save_reference is not None
        limit = None if needs_all else NUM_KEPT
        _add_all(real, _batches(config, sources[split], limit, batch_size))
    scores = compare(generated, real, wanted, seed=seed)
    scores |= {} if scorer is None else scorer.scores(seed)
    if save_reference is not None:
        write_reference(save_reference, real.name, extractor, real.pooled, real.spatial)
    copies, found = _copies(config, sources, generated, num_train, batch_size)
    result: dict[str, Any] = {
        "measure": "generation",
        "split": split,
        "seed": seed,
        "num_images": generated.count,
        **{name: score.told for name, score in scores.items()},
        "memorisation": found,
        "likelihood": {
            "split": "validation",
            "num_images": _num_logged(config, len(sources["validation"])),
            **likelihood,
        },
        "sampling": dataclasses.asdict(config.sampling),
    }
    out = out or directory / "evaluation"
    made_by = {"seed": seed, **result["sampling"]}
    save_png(out / "generation_samples.png", _grid(first[:NUM_SHOWN]), made_by)
    shown_copies = _beside_copies(config, sources["train"], first, copies)
    save_png(out / "neighbours.png", shown_copies, made_by)
    write_json(out / "generation.json", result)
    return result


def _num_logged(config: RunConfig, count: int) -> int:
    """Validation pictures that a run measures its losses on: whole batches, so many."""
    batch_size = config.gpt_training.global_batch_size
    return min(config.gpt_training.eval_batches, count // batch_size) * batch_size


def _extractors(model: Model, source: str) -> dict[str, Callable[[], Extractor]]:
    """What a run's pictures are compared by without weights; the first is the usual one."""
    size, tokenizer, tokenizer_params = model.batch_size, model.tokenizer, model.tokenizer_params

    def latents(is_flat: bool) -> Extractor:
        return TokenizerExtractor(tokenizer, tokenizer_params, source, is_flat, size)

    def middle_layer() -> Extractor:
        gpt = model.gpt
        assert isinstance(gpt, GPT)
        texts = (model.text_encoder, model.caption_tokenizer)
        null = Reader(gpt.config, *texts, model.config.attributes, size).read(Request(), 1)
        parts = (gpt, model.params, tokenizer, tokenizer_params, null, source)
        return GPTExtractor(*parts, batch_size=size)

    kinds: dict[str, Callable[[], Extractor]] = {
        "tokenizer": partial(latents, False),
        "tokenizer_grid": partial(latents, True),
        "gpt": middle_layer,
    }
    return kinds if hasattr(tokenizer, "latents") else {"gpt": kinds.pop("gpt"), **kinds}


def _drawn(
    model: Model,
    config: RunConfig,
    source: Source,
    count: int,
    seed: int,
    scorer: ClipScorer | None = None,
) -> Iterator[UInt8[np.ndarray, "b *t h w 3"]]:
    """Pictures of a model; each depends on the seed and on those before it, not on the count."""
    rows: Iterator[dict[str, Any]] = repeat({})
    if config.gpt.kinds:
        order = np.random.default_rng(seed).permutation(len(source)).tolist()
        passes = -(-count // len(source)) + 1  # a damaged picture asks for nothing
        rows = askable(model, source, chain.from_iterable(repeat(order, passes)))
    for part, start in enumerate(range(0, count, PART)):
        examples = list(islice(rows, min(PART, count - start)))
        if examples:
            asked, _ = asked_by(config, examples)
            part_seed = random_words(seed, part, 1)[0] % 2**32
            images = model.sample(**asked, num_images=len(examples), seed=part_seed)
            if scorer is not None:
                scorer.add(images, examples)
            yield images


def _batches(
    config: RunConfig, source: Source, limit: int | None, batch_size: int
) -> Iterator[tuple[UInt8[np.ndarray, "b *t h w 3"], Int[np.ndarray, " b"]]]:
    """Real pictures as the model was shown them, with their indices; a limit takes some of all."""
    order = np.arange(len(source))
    if limit is not None and limit < len(order):
        order = np.sort(np.random.default_rng(0).permutation(order)[:limit])
    rows = readable(source, order.tolist())
    while examples := list(islice(rows, batch_size)):
        yield _pictures(config, examples), np.array([row["index"] for row in examples])


def _pictures(
    config: RunConfig, examples: Sequence[dict[str, Any]]
) -> UInt8[np.ndarray, "b *t h w 3"]:
    return shown(examples, config.transform, None)["image"]


def _add_all(side: FeatureSet, batches: Any) -> None:
    for batch in batches:
        side.add(batch[0] if isinstance(batch, tuple) else batch)


def _first(
    side: FeatureSet, batches: Iterator[UInt8[np.ndarray, "b *t h w 3"]], count: int
) -> UInt8[np.ndarray, "n *t h w 3"]:
    """Takes in all pictures, and returns the first ones."""
    kept: list[np.ndarray] = []
    for images in batches:
        if side.count < count:
            kept.append(images[: count - side.count])
        side.add(images)
    if not kept:
        raise UserError("generation: expected pictures to be asked for, got none; check the data")
    return np.concatenate(kept)


def _copies(
    config: RunConfig,
    sources: dict[Split, Source],
    generated: FeatureSet,
    num_train: int | None,
    batch_size: int,
) -> tuple[NearestPictures, dict[str, Any]]:
    """The training pictures nearest to the first drawn ones; and how near others are to them."""
    extractor = generated.extractor
    checked = generated.kept[:NUM_CHECKED]
    limit = min(NUM_CHECKED, len(sources["validation"]))
    held_out = FeatureSet("validation split", extractor)
    _add_all(held_out, _batches(config, sources["validation"], limit, batch_size))
    ours, theirs = NearestPictures(checked, K_SHOWN), NearestPictures(held_out.kept)
    for images, indices in _batches(config, sources["train"], num_train, batch_size):
        found = np.asarray(extractor(images).pooled)
        ours.add(found, indices)
        theirs.add(found, indices)
    distances = memorisation(ours.distances[:, 0], theirs.distances[:, 0])
    return ours, {
        **distances,
        "num_generated": len(checked),
        "num_held_out": held_out.count,
        "num_train": ours.count,
        "features": extractor.name,
        "shown_distances": ours.distances[:NUM_COPIES_SHOWN].tolist(),
    }


def _grid(images: UInt8[np.ndarray, "n *t h w 3"]) -> UInt8[np.ndarray, "gh gw 3"]:
    return contact_sheet(images[:8]) if images.ndim == 5 else image_grid(images)


def _beside_copies(
    config: RunConfig,
    source: Source,
    drawn: UInt8[np.ndarray, "n *t h w 3"],
    copies: NearestPictures,
) -> UInt8[np.ndarray, "gh gw 3"]:
    """Rows of a drawn picture and its nearest training pictures; of videos their middle frames."""
    rows = []
    for image, indices in zip(drawn[:NUM_COPIES_SHOWN], copies.indices, strict=False):
        known = [index for index in indices.tolist() if index >= 0]
        near = _pictures(config, list(readable(source, known)))
        rows += [image, *near, *[np.full_like(image, 255)] * (K_SHOWN - len(near))]
    stacked = np.stack(rows)
    if stacked.ndim == 5:
        stacked = stacked[:, stacked.shape[1] // 2]
    return image_grid(stacked, columns=1 + K_SHOWN)

"""How well a model answers what it is asked by text, a part of a picture, or another picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from igpt_jax.asking import check_count
from igpt_jax.config import RunConfig
from igpt_jax.data.card_captions import Language
from igpt_jax.data.card_videos import CardVideoSource
from igpt_jax.data.cards import CardSource, combination
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.items import shown
from igpt_jax.data.known_signal import keep_known_signal, known_signal_psnr
from igpt_jax.data.random_words import random_words
from igpt_jax.data.sources import open_source
from igpt_jax.errors import UserError
from igpt_jax.evaluation.completion import completion_report, hidden_mask, number_box
from igpt_jax.evaluation.counting import counting_report
from igpt_jax.evaluation.faithfulness import caption_accuracy, card_faithfulness
from igpt_jax.evaluation.retrieval import (
    accuracy_interval,
    candidates,
    likelihood_gain,
    mean_rank,
    retrieval_accuracy,
)
from igpt_jax.jsonfile import write_json
from igpt_jax.model import Model
from igpt_jax.serialization import from_dict
from igpt_jax.stored import GPT_CHECKPOINTS, load
from igpt_jax.training.checkpoint import load_metadata
from igpt_jax.typing import UInt8

HIDDEN_PARTS = ("left", "right", "centre")
Measure = Literal["faithfulness", "completion", "retrieval", "pairs", "counting"]


def evaluate_answers(
    directory: Path,
    measure: Measure,
    *,
    split: Split = "validation",
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measures a run's model on its own data.

    Args:
        directory: the run.
        measure: what; each is a function of this module.
        split: whose pictures.
        num_images: so many; None for all validation pictures.
        batch_size: pictures drawn at once.
        seed: of what is drawn.
        out: directory of `MEASURE.json`; DIR/evaluation by default.

    Raises:
        UserError: no run is there, or it is of another kind of data.
    """
    check_count("num_images", num_images)
    check_count("batch_size", batch_size)
    config = from_dict(RunConfig, load_metadata(directory / GPT_CHECKPOINTS)["config"])
    model = dataclasses.replace(load(directory), batch_size=batch_size)
    sources = {name: open_source(config.data, name) for name in get_args(Split)}
    count = len(sources["validation"]) if num_images is None else num_images
    match measure:
        case "faithfulness":
            result = faithfulness(model, config, sources, count, seed)
        case "completion":
            result = completion(model, config, sources[split], count, seed)
        case "retrieval":
            result = retrieval(model, config, sources[split], count, seed)
        case "pairs":
            result = pairs(model, config, sources[split], count, seed)
        case "counting":
            result = counting(model, config, sources[split], count, seed)
    result = {"measure": measure, "split": split, "seed": seed, **result}
    out = out or directory / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{measure}.json", result)
    return result


def prepared(
    config: RunConfig, source: Source, indices: Sequence[int]
) -> dict[str, UInt8[np.ndarray, "b *t h w 3"]]:
    """Pictures (or videos) as the model was shown them, with what they are made from."""
    return shown((source[i] for i in indices), config.transform, config.cond_image)


def faithfulness(
    model: Model, config: RunConfig, sources: dict[str, Source], count: int, seed: int
) -> dict[str, Any]:
    """Cards drawn from captions, and captions read off cards, by language.

    Captions are those of training cards, and of validation cards of combinations that no training
    card has; captions are read off validation cards.
    """
    train, validation = sources["train"], sources["validation"]
    if not isinstance(train, CardSource) or not isinstance(validation, CardSource):
        raise UserError("faithfulness: expected a run on cards, whose pictures can be read")
    if not (config.gpt.caption_len or config.gpt.text_len):
        raise UserError("faithfulness: expected a run on cards with captions")
    languages: tuple[Language, ...] = ("en", "zh")
    held_out = [i for i in range(len(validation)) if validation.is_held_out(i)]
    asked = {
        "trained": (train, list(range(min(count, len(train))))),
        "held_out": (validation, held_out[:count]),
    }
    result: dict[str, Any] = {}
    for name, (source, indices) in asked.items():
        if not indices:
            continue
        cards = [source.card(i) for i in indices]
        for language in languages:
            texts = [_in_language(source, i, language) for i in indices]
            if None in texts:
                continue
            images = model.sample(text=[text or "" for text in texts], seed=seed)
            result[f"{name}_{language}"] = card_faithfulness(images, cards)
    result["num_images"] = {name: len(indices) for name, (_, indices) in asked.items()}
    if not config.gpt.caption_len:
        return result
    indices = list(range(min(count, len(validation))))
    captions = model.caption(prepared(config, validation, indices)["image"], seed=seed)
    cards = [validation.card(i) for i in indices]
    result["captions"] = caption_accuracy(captions, cards)
    result["num_combinations"] = len({combination(card) for card in cards})
    return result


def _in_language(source: CardSource, index: int, language: Language) -> str | None:
    """One of a card's captions in a language, chosen by the index."""
    texts = [
        text
        for text in source.captions(index)
        if any("\u4e00" <= letter <= "\u9fff" for letter in text) == (language == "zh")
    ]
    return texts[random_words(0, index, 1)[0] % len(texts)] if texts else None


def completion(
    model: Model, config: RunConfig, source: Source, count: int, seed: int
) -> dict[str, Any]:
    """Cards of whose number half is hidden: the left, the right, or the middle of its own box."""
    if not isinstance(source, CardSource):
        raise UserError("completion: expected a run on cards, whose numbers can be read")
    indices = list(range(min(count, len(source))))
    cards = [source.card(i) for i in indices]
    images = prepared(config, source, indices)["image"]
    size, grid_shape = model.tokenizer.image_size, model.tokenizer.grid_shape
    result: dict[str, Any] = {}
    for part in HIDDEN_PARTS:
        masks = np.stack([hidden_mask(size, grid_shape, part, number_box(card)) for card in cards])
        completed = model.sample(images=images, mask=masks, seed=seed)
        result[part] = completion_report(completed, cards, masks)
    return {**result, "num_images": len(indices)}


def retrieval(
    model: Model, config: RunConfig, source: Source, count: int, seed: int, num_candidates: int = 20
) -> dict[str, Any]:
    """Which of 20 captions makes a picture most probable; and what its caption gains it.

    There are fewer candidates where the pictures have fewer different captions.
    """
    if not (config.gpt.caption_len or config.gpt.text_len):
        raise UserError("retrieval: expected a run on pictures with captions")
    indices = list(range(min(count, len(source))))
    texts = [source[i]["caption"] for i in indices]
    tokens = model.encode(prepared(config, source, indices)["image"])
    num_candidates = min(num_candidates, len(set(texts)))
    chosen = candidates(seed, texts, num_candidates)
    scores = np.stack(
        [
            model.token_log_likelihood(tokens, text=[texts[j] for j in column])
            for column in np.moveaxis(chosen, 1, 0)
        ],
        axis=1,
    )
    answers = np.zeros(len(indices), int)
    accuracy = retrieval_accuracy(scores, answers)
    gain = likelihood_gain(scores[:, 0], model.token_log_likelihood(tokens), _num_tokens(model))
    return {
        "retrieval_accuracy": accuracy,
        "interval": list(accuracy_interval(accuracy, len(indices))),
        "mean_rank": mean_rank(scores, answers),
        "num_candidates": num_candidates,
        "gain_nats_per_token": gain.nats,
        "gain_standard_error": gain.standard_error,
        "num_images": len(indices),
    }


def pairs(model: Model, config: RunConfig, source: Source, count: int, seed: int) -> dict[str, Any]:
    """Pictures made from others: what they keep, and how probable the true picture is."""
    if not config.gpt.cond_image:
        raise UserError("pairs: expected a run whose pictures are made from others")
    indices = list(range(0, len(source), max(1, len(source) // count)))[:count]
    views = prepared(config, source, indices)
    images, cond_images = views["image"], views["cond_image"]
    others = np.roll(np.arange(len(images)), 1)
    tokens = model.encode(images)
    made_from = {"cond_images": cond_images, "cond_is_made": True}
    made_from_others = {"cond_images": cond_images[others], "cond_is_made": True}
    true = model.token_log_likelihood(tokens, **made_from)
    other_picture = model.token_log_likelihood(tokens[others], **made_from)
    other_condition = model.token_log_likelihood(tokens, **made_from_others)
    result = {
        "true_above_shuffled_picture": float((true > other_picture).mean()),
        "true_above_shuffled_condition": float((true > other_condition).mean()),
        "nats_per_token": float(-true.mean() / _num_tokens(model)),
        "num_images": len(images),
    }
    made = model.config.cond_image
    if made is None:
        return result
    plain = dataclasses.replace(model, config=dataclasses.replace(model.config, cond_image=None))
    before = plain.sample(cond_images=cond_images, seed=seed)
    after = keep_known_signal(made, before, cond_images)
    for name, pictures in (("before", before), ("after", after)):
        psnr = known_signal_psnr(made, pictures, cond_images)
        result[f"known_psnr_{name}"] = float(psnr.mean())
        result[f"known_psnr_{name}_min"] = float(psnr.min())
    return result


def counting(
    model: Model, config: RunConfig, source: Source, count: int, seed: int
) -> dict[str, Any]:
    """Videos of cards that count: from a caption or class, and from a first frame.

    A first frame is kept where the video begins with what its tokens decode to.
    """
    if not isinstance(source, CardVideoSource):
        raise UserError("counting: expected a run on videos of cards, whose numbers can be read")
    indices = list(range(min(count, len(source))))
    videos = prepared(config, source, indices)["image"]
    numbers = [source.card_video(i).numbers[0] for i in indices]
    asked: dict[str, Any] = {}
    if config.gpt.num_classes:
        asked["labels"] = numbers
    if config.gpt.caption_len or config.gpt.text_len:
        asked["text"] = [source[i]["caption"] for i in indices]
    drawn = model.sample(**asked, num_images=len(indices), seed=seed)
    result: dict[str, Any] = {
        "asked": counting_report(drawn, numbers if asked else None),
        "originals": counting_report(videos, numbers),
        "num_videos": len(indices),
    }
    first = videos[:, 0]
    continued = model.sample(images=first, seed=seed)
    result["from_first_frame"] = counting_report(continued, numbers)
    shown = model.decode(model.encode(first))
    differences = np.abs(
        continued[:, 0].astype(int) - shown
    )  # decoded in other batches: they round
    result["first_frame_kept"] = float((differences <= 1).all(axis=(1, 2, 3)).mean())
    return result


def _num_tokens(model: Model) -> int:
    assert model.gpt is not None
    return model.gpt.config.seq_len

"""What the pipelines of a run make of the items of a source: examples to train on and to encode."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np

from igpt_jax.data.condition_images import ConditionImageConfig, make_condition_image
from igpt_jax.data.encode import EncodingConfig, make_views
from igpt_jax.data.examples import Source
from igpt_jax.data.pipeline import Item, ItemTransform
from igpt_jax.data.transforms import TransformConfig, transform
from igpt_jax.text.caption_tokenizers import CaptionTokenizer
from igpt_jax.text.tokenizer import TextTokenizer
from igpt_jax.typing import Int, UInt8

COND_SHARE = 0.25  # of a tokenizer's training pictures, where pictures are made from others


def to_picture(
    config: TransformConfig,
    cond_image: ConditionImageConfig | None,
    num_frames: int,
) -> ItemTransform:
    """Items to what a tokenizer trains on: a picture, or a video of `num_frames` > 1.

    Of a video, a tokenizer of pictures gets any frame. Where pictures are made from others it gets
    some of these, too, for it must encode both.
    """

    def prepare(item: Item, rng: np.random.Generator) -> Item:
        if "video" in item:
            video = item["video"]
            if num_frames > 1:
                return {"image": _each_frame(config, video[:num_frames], rng), **_label(item)}
            item = {"image": video[rng.integers(len(video))], **_label(item)}
        shows_cond = "cond_image" in item or cond_image is not None
        if not shows_cond or rng.random() >= COND_SHARE:
            return {"image": transform(config, item["image"], rng), **_label(item)}
        if cond_image is None:
            plain = colourless(config)
            return {"image": transform(plain, item["cond_image"], rng), **_label(item)}
        picture = transform(config, item["image"], rng)
        made = make_condition_image(cond_image, picture, config.image_size)
        return {"image": made, **_label(item)}

    return prepare


def to_views(
    views: EncodingConfig, config: TransformConfig, cond_image: ConditionImageConfig | None
) -> ItemTransform:
    """Items to what is encoded: the views of a picture or a video, and what comes with it."""

    def prepare(item: Item, _: np.random.Generator) -> Item:
        rest = {name: item[name] for name in ("captions", "attributes") if name in item}
        if "video" in item:
            frames = [make_views(views, config, frame) for frame in item["video"]]
            return {"image": np.stack(frames, axis=1), **rest, **_label(item)}
        images = make_views(views, config, item["image"])
        if cond_image is not None:
            made = [make_condition_image(cond_image, view, config.image_size) for view in images]
            rest["cond_image"] = np.stack(made)
        elif "cond_image" in item:
            rest["cond_image"] = make_views(views, colourless(config), item["cond_image"])
        return {"image": images, **rest, **_label(item)}

    return prepare


def shown(
    items: Iterable[Item], config: TransformConfig, cond_image: ConditionImageConfig | None
) -> dict[str, UInt8[np.ndarray, "b *t s s 3"]]:
    """Pictures (or videos) as a model was shown them, and what they are made from."""
    prepare, unused = to_views(EncodingConfig(), config, cond_image), np.random.default_rng(0)
    views = [prepare(item, unused) for item in items]
    names = [name for name in ("image", "cond_image") if name in views[0]]
    return {name: np.concatenate([view[name] for view in views]) for name in names}


def to_tokens(
    captions: CaptionTokenizer | None,
    length: int,
    any_wording: bool,
    *,
    text: TextTokenizer | None = None,
    text_len: int = 0,
) -> ItemTransform:
    """Encoded items to what a GPT trains on, with the tokens of one of their captions.

    For a text encoder these are `"text_tokens"`, int32 [t], and `"text_mask"`, bool [t], true where
    there is text.

    Args:
        captions: the captions' tokenizer; None where captions are not in the GPT's sequence.
        length: slots of a caption.
        any_wording: draw one of the captions; otherwise take the first.
        text: the tokenizer of a text encoder, which reads the same caption; None for none.
        text_len: slots of its text.
    """

    def prepare(item: Item, rng: np.random.Generator) -> Item:
        kept = {name: value for name, value in item.items() if name != "captions"}
        if captions is None and text is None:
            return kept
        texts = json.loads(item["captions"])
        caption = texts[rng.integers(len(texts))] if any_wording else texts[0]
        if captions is not None:
            tokens, mask = captions.encode([caption], length)
            kept |= {"caption": tokens[0], "caption_length": int(mask.sum())}
        if text is not None:
            tokens, mask = text.encode([caption], text_len)
            kept |= {"text_tokens": tokens[0], "text_mask": mask[0]}
        return kept

    return prepare


class WithCaptions:
    """A source whose items hold all their captions, as a JSON list.

    Attributes:
        source: with `captions(index)`.
    """

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        captions: Sequence[str] = self.source.captions(index)
        return {**self.source[index], "captions": json.dumps(captions, ensure_ascii=False)}


def has_captions(source: Source) -> bool:
    """Whether the pictures of a source have captions."""
    find: Any = getattr(source, "captions", None)
    return find is not None and len(source) > 0 and bool(find(0))


def colourless(config: TransformConfig) -> TransformConfig:
    """The same geometry, with colours and noise as they are."""
    return dataclasses.replace(
        config,
        denoise="none",
        white_balance=False,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        color_balance=0.0,
    )


def _label(item: Item) -> dict[str, Int[np.ndarray, ""] | int]:
    return {"label": item["label"]}


def _each_frame(
    config: TransformConfig, video: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "t s s 3"]:
    """Every frame prepared alike."""
    seed = int(rng.integers(1 << 32))
    return np.stack([transform(config, frame, np.random.default_rng(seed)) for frame in video])

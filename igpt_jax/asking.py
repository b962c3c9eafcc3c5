"""What a caller asks of a model, checked and in the form that the model takes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.data.attributes import AttributeConfig, attribute_values
from igpt_jax.data.condition_images import ConditionImageConfig, make_condition_image
from igpt_jax.errors import UserError
from igpt_jax.model_config import GeneratorConfig
from igpt_jax.models.conditioning import (
    Caption,
    CondImage,
    Condition,
    Conditions,
    TextFeatures,
)
from igpt_jax.models.gpt_config import GPTConfig
from igpt_jax.text.caption_tokenizers import CaptionTokenizer
from igpt_jax.text.encoder import TextEncoder
from igpt_jax.typing import Array, Bool, Int, UInt8

AskedAttributes: TypeAlias = ArrayLike | Mapping[str, str | int] | Sequence[Mapping[str, str | int]]
"""Values by the names of attributes, for all pictures or for each; or whole numbers [a], [b a]."""

NO_ENCODER = (
    "text: expected a text encoder in the model's directory, found none; import it there: igpt "
    "import SOURCE --kind t5-encoder --to DIR"
)


def check_count(name: str, value: Any) -> None:
    """Refuses what is no number of things."""
    if value is not None and (not isinstance(value, int | np.integer) or value < 1):
        raise UserError(f"{name}: expected a whole number of at least 1, got {value}")


def check_seed(seed: Any) -> None:
    """Refuses seeds that would stand for others."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise UserError(f"seed: expected 0 <= seed < 2^32, got {seed}")


def kinds_of(config: GeneratorConfig) -> tuple[str, ...]:
    """What can be asked of a model, by the names of `Conditions`."""
    if isinstance(config, GPTConfig):
        return config.kinds
    return ("labels",) if config.num_classes else ()


def is_guidable(config: GeneratorConfig) -> bool:
    """Whether a model was trained to draw without its condition, too."""
    return bool(kinds_of(config)) and config.cond_drop_prob > 0


@dataclass(frozen=True)
class Request:
    """What is asked of each picture; one row may stand for all, and None is not asked.

    Attributes:
        labels: classes.
        text: what pictures show; an empty text, or None in a list, asks for nothing.
        attributes: see `AskedAttributes`.
        cond_tokens: int [b l], of what pictures are made from.
        is_for_caption: whether a caption is what is asked for.
    """

    labels: Any = None
    text: str | Sequence[str | None] | None = None
    attributes: Any = None
    cond_tokens: Int[np.ndarray, "b l"] | None = None
    is_for_caption: bool = False

    @property
    def is_of_picture_alone(self) -> bool:
        """Whether nothing is asked but that pictures be made from others."""
        others = (self.labels, self.text, self.attributes)
        return self.cond_tokens is not None and all(given is None for given in others)


@dataclass(frozen=True)
class Reader:
    """Reads requests for a model.

    Attributes:
        config: of the model.
        text_encoder: texts to features.
        caption_tokenizer: texts to tokens.
        attributes: their names and values.
        batch_size: texts encoded at once.
    """

    config: GeneratorConfig
    text_encoder: TextEncoder | None
    caption_tokenizer: CaptionTokenizer | None
    attributes: Sequence[AttributeConfig]
    batch_size: int

    def read(self, request: Request, count: int) -> Condition:
        """The condition of `count` pictures; what is not asked for is null.

        Raises:
            UserError: the model cannot take it.
        """
        kinds, given = kinds_of(self.config), {}
        _refuse_others(kinds, request)
        if "labels" in kinds:
            given["labels"] = _labels(self.config, request.labels, count)
        if "attributes" in kinds:
            given["attributes"] = _attributes(
                self.config, request.attributes, count, self.attributes
            )
        if "text" in kinds:
            given["text"] = self._features(request.text, count)
        if "caption" in kinds and not request.is_for_caption:
            given["caption"] = self._caption(request.text, count)
        if "image" in kinds:
            given["image"] = _cond_image(self.config, request.cond_tokens, count)
        if kinds in ((), ("labels",)):
            return given.get("labels")
        return Conditions(**given)

    def _features(self, text: Any, count: int) -> TextFeatures:
        if self.text_encoder is None:
            raise UserError(NO_ENCODER)
        config: Any = self.config
        texts, is_null = _texts(config, text, count)
        features = self.text_encoder(texts, config.text_len, self.batch_size)
        return TextFeatures(features.features, features.mask, jnp.asarray(is_null))

    def _caption(self, text: Any, count: int) -> Caption:
        tokenizer = self.caption_tokenizer
        if tokenizer is None:
            raise UserError("text: expected the model's caption tokenizer, found none")
        config: Any = self.config
        texts, is_null = _texts(config, text, count)
        needed = tokenizer.max_length(texts)
        if needed > config.caption_len:
            longest = max(texts, key=lambda text: tokenizer.max_length([text]))
            raise UserError(
                f"text: expected at most {config.caption_len} tokens with the end, got {needed}: "
                f"{longest[:60]!r}; shorten it"
            )
        tokens, mask = tokenizer.encode(texts, config.caption_len)
        lengths = np.where(is_null, 0, mask.sum(axis=1))
        return Caption(jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32))


def count_pictures(num_images: int | None, **given: Any) -> int:
    """How many pictures are asked for, by the rows that are given; one row stands for all.

    Raises:
        UserError: the request contradicts itself.
    """
    said = {name: rows for name, value in given.items() if (rows := _num_rows(name, value))}
    counts = {rows for rows in said.values() if rows > 1}
    if num_images is not None:
        counts.add(num_images)
        said["num_images"] = num_images
    if len(counts) > 1:
        raise UserError(f"expected one number of pictures, got {said}")
    return next(iter(counts), 1)


def one_part(has_images: bool, **parts: Any) -> str | None:
    """What says which part of pictures is kept; None where nothing does.

    Raises:
        UserError: several do, or there are no pictures.
    """
    said = [name for name, value in parts.items() if value is not None]
    if said and not has_images:
        raise UserError(
            f"{said[0]}: expected images of which a part is kept, got none; pass images"
        )
    if len(said) > 1:
        raise UserError(f"expected one of mask, keep and vary, got {' and '.join(said)}; drop one")
    return said[0] if said else None


def made_from(
    cond_images: ArrayLike,
    making: ConditionImageConfig | None,
    image_size: int,
    *,
    is_made: bool,
) -> UInt8[np.ndarray, "b s s 3"]:
    """What pictures are made from; of pictures as they are, it is made first.

    Raises:
        UserError: no pictures, or of another size than the model's.
    """
    images = np.asarray(cond_images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) == 0:
        raise UserError(
            f"cond_images: expected uint8 of shape (b, h, w, 3), got {images.dtype} of "
            f"{images.shape}"
        )
    if making is not None and not is_made:
        return np.stack([make_condition_image(making, image, image_size) for image in images])
    if images.shape[1:3] != (image_size, image_size):
        raise UserError(
            f"cond_images: expected {image_size} x {image_size} pixels, got {images.shape[1]} x "
            f"{images.shape[2]}; igpt_jax.data.transforms has center_crop and resize"
        )
    return images


def _num_rows(name: str, value: Any) -> int | None:
    if value is None or (name == "labels" and np.ndim(value) == 0) or isinstance(value, str):
        return None
    rows = num_attribute_rows(value) if name == "attributes" else len(value)
    if rows == 0:
        raise UserError(f"{name}: expected at least 1 row, got none")
    return rows


def _spread(name: str, rows: Any, count: int) -> Any:
    """One row for each picture, where one is given for all."""
    if len(rows) not in (1, count):
        raise UserError(f"{name}: expected {count}, one a picture, got {len(rows)}")
    if len(rows) == count:
        return rows
    return np.repeat(rows, count, axis=0) if isinstance(rows, np.ndarray) else list(rows) * count


def _refuse_others(kinds: tuple[str, ...], request: Request) -> None:
    takes_text = "text" in kinds or "caption" in kinds
    if request.text is not None and not takes_text:
        raise UserError("text: expected none, for the model is not text-conditional")
    if request.labels is not None and "labels" not in kinds:
        if takes_text:
            raise UserError("labels: expected none, for the model is text-conditional; pass text")
        raise UserError("labels: expected none, for the model has no classes")
    if request.attributes is not None and "attributes" not in kinds:
        raise UserError("attributes: expected none, for the model has none")
    if request.cond_tokens is not None and "image" not in kinds:
        raise UserError("cond_images: expected none, for the model makes pictures from none")


def _labels(config: GeneratorConfig, labels: Any, count: int) -> Int[Array, " b"]:
    num_classes = config.num_classes
    if labels is None:
        if not is_guidable(config):
            raise UserError(f"labels: expected classes 0 to {num_classes - 1}, got none")
        return jnp.full((count,), num_classes, jnp.int32)
    return class_ids(labels, num_classes, count)


def class_ids(labels: Any, num_classes: int, count: int) -> Int[Array, " b"]:
    """Classes of `count` pictures; one may stand for all.

    Raises:
        UserError: they are no classes, or as many as neither 1 nor `count`.
    """
    ids = np.asarray(labels)
    if not np.issubdtype(ids.dtype, np.integer) or ids.ndim > 1:
        raise UserError(f"labels: expected whole numbers, got {labels!r}")
    ids = _spread("labels", np.atleast_1d(ids), count)
    if ids.min() < 0 or ids.max() >= num_classes:
        raise UserError(
            f"labels: expected classes 0 to {num_classes - 1}, got {ids.min()} to {ids.max()}"
        )
    return jnp.asarray(ids, jnp.int32)


def num_attribute_rows(attributes: Any) -> int | None:
    """How many pictures attributes are asked of one by one; None for the same of all."""
    if attributes is None or isinstance(attributes, Mapping):
        return None
    rows = attributes if isinstance(attributes, Sequence) else np.atleast_1d(attributes)
    is_each = len(rows) and (isinstance(rows[0], Mapping) or np.ndim(rows[0]) > 0)
    return len(rows) if is_each else None


def _attributes(
    config: Any, attributes: Any, count: int, names: Sequence[AttributeConfig]
) -> Int[Array, "b a"]:
    sizes = config.attribute_sizes
    given = [-1] * len(sizes) if attributes is None else _numbered(attributes, names)
    rows = _spread("attributes", given if num_attribute_rows(given) else [given], count)
    values = [np.asarray(row) for row in rows]
    if any(
        row.shape != (len(sizes),) or not np.issubdtype(row.dtype, np.integer) for row in values
    ):
        raise UserError(
            f"attributes: expected {len(sizes)} whole numbers a picture, got {attributes!r}"
        )
    table = np.stack(values)
    if (table < -1).any() or (table >= sizes).any():
        raise UserError(
            f"attributes: expected values below {sizes}, or -1 for any, got {attributes!r}"
        )
    if (table == -1).any() and not (config.attribute_drop_prob or is_guidable(config)):
        raise UserError("attributes: expected all of them, as training left none open, got fewer")
    return jnp.asarray(table, jnp.int32)


def _numbered(attributes: Any, names: Sequence[AttributeConfig]) -> Any:
    """The same with names turned to numbers."""
    if isinstance(attributes, Sequence) and not isinstance(attributes, str):
        return [_numbered(row, names) if isinstance(row, Mapping) else row for row in attributes]
    if not isinstance(attributes, Mapping):
        return attributes
    if not names:
        raise UserError(
            f"attributes: expected whole numbers, as the model has no names for them, got "
            f"{attributes!r}"
        )
    return attribute_values(names, attributes)


def _texts(
    config: GeneratorConfig, text: str | Sequence[str | None] | None, count: int
) -> tuple[list[str], Bool[np.ndarray, " b"]]:
    """A text a picture, and which of them ask for nothing."""
    rows = [text] if text is None or isinstance(text, str) else list(text)
    wrong = next((row for row in rows if not isinstance(row, str | None)), None)
    if wrong is not None:
        raise UserError(f"text: expected texts, got {wrong!r}")
    texts = [row or "" for row in _spread("text", rows, count)]
    is_null = np.asarray([not row for row in texts])
    if is_null.any() and not is_guidable(config):
        raise UserError("text: expected one for each picture, as training left none out, got none")
    return texts, is_null


def _cond_image(config: Any, cond_tokens: Int[np.ndarray, "b l"] | None, count: int) -> CondImage:
    if cond_tokens is None:
        if not is_guidable(config):
            raise UserError("cond_images: expected pictures to make others from, got none")
        return CondImage(jnp.zeros((count, config.cond_len), jnp.int32), jnp.ones(count, bool))
    rows = _spread("cond_images", cond_tokens, count)
    return CondImage(jnp.asarray(rows), jnp.zeros(count, bool))


def without_picture(condition: Condition) -> Condition:
    """The same without the picture that pictures are made from."""
    asked: Any = condition
    image = dataclasses.replace(asked.image, is_null=jnp.ones_like(asked.image.is_null))
    return dataclasses.replace(asked, image=image)

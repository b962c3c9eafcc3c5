"""What a caller asks of a model, checked and in the form that the model takes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from igpt_jax.data.attributes import AttributeConfig, attribute_values
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
from igpt_jax.typing import Array, Int

AskedAttributes: TypeAlias = ArrayLike | Mapping[str, str | int] | Sequence[Mapping[str, str | int]]
"""Values by the names of attributes, for all pictures or for each; or whole numbers [a], [b a]."""

NO_ENCODER = (
    "text: expected a text encoder in the model's directory, found none; import it there: igpt "
    "import SOURCE --kind t5-encoder --to DIR"
)


def kinds_of(config: GeneratorConfig) -> tuple[str, ...]:
    """What can be asked of a model, by the names of `Conditions`."""
    if isinstance(config, GPTConfig):
        return config.kinds
    return ("labels",) if config.num_classes else ()


def is_guidable(config: GeneratorConfig) -> bool:
    """Whether a model was trained to draw without its condition, too."""
    return bool(kinds_of(config)) and config.cond_drop_prob > 0


def read_request(
    config: GeneratorConfig,
    count: int,
    *,
    labels: Any,
    text: str | Sequence[str] | None,
    attributes: Any,
    cond_tokens: Int[np.ndarray, "b l"] | None,
    text_encoder: TextEncoder | None,
    caption_tokenizer: CaptionTokenizer | None,
    batch_size: int,
    attribute_names: Sequence[AttributeConfig] = (),
) -> Condition:
    """The condition of `count` pictures; what is not asked for is null.

    Raises:
        UserError: the model cannot take it.
    """
    kinds = kinds_of(config)
    _refuse_others(kinds, labels, text, attributes, cond_tokens)
    given: dict[str, Any] = {}
    if "labels" in kinds:
        given["labels"] = _labels(config, labels, count)
    if "attributes" in kinds:
        given["attributes"] = _attributes(config, attributes, count, attribute_names)
    if "text" in kinds:
        given["text"] = _features(config, text, count, text_encoder, batch_size)
    if "caption" in kinds:
        given["caption"] = _caption(config, text, count, caption_tokenizer)
    if "image" in kinds:
        given["image"] = _cond_image(config, cond_tokens, count)
    if kinds in ((), ("labels",)):
        return given.get("labels")
    return Conditions(**given)


def _refuse_others(
    kinds: tuple[str, ...], labels: Any, text: Any, attributes: Any, cond_tokens: Any
) -> None:
    takes_text = "text" in kinds or "caption" in kinds
    if text is not None and not takes_text:
        raise UserError("text: expected none, for the model is not text-conditional")
    if labels is not None and "labels" not in kinds:
        if takes_text:
            raise UserError("labels: expected none, for the model is text-conditional; pass text")
        raise UserError("labels: expected none, for the model has no classes")
    if attributes is not None and "attributes" not in kinds:
        raise UserError("attributes: expected none, for the model has none")
    if cond_tokens is not None and "image" not in kinds:
        raise UserError("cond_images: expected none, for the model makes pictures from none")


def _labels(config: GeneratorConfig, labels: Any, count: int) -> Int[Array, " b"]:
    num_classes = config.num_classes
    if labels is None:
        if not is_guidable(config):
            raise UserError(f"labels: expected classes 0 to {num_classes - 1}, got none")
        return jnp.full((count,), num_classes, jnp.int32)
    ids = np.asarray(labels)
    if not np.issubdtype(ids.dtype, np.integer) or ids.ndim > 1:
        raise UserError(f"labels: expected whole numbers, got {labels!r}")
    ids = np.broadcast_to(ids, (count,)) if ids.ndim == 0 else ids
    if len(ids) != count:
        raise UserError(f"labels: expected {count}, one a picture, got {len(ids)}")
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
    rows = given if num_attribute_rows(given) is not None else [given] * count
    if len(rows) != count:
        raise UserError(f"attributes: expected {count}, one row a picture, got {len(rows)}")
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


def _texts(text: str | Sequence[str] | None, count: int) -> list[str]:
    texts = [text or ""] * count if text is None or isinstance(text, str) else list(text)
    wrong = next((given for given in texts if not isinstance(given, str)), None)
    if wrong is not None:
        raise UserError(f"text: expected texts, got {wrong!r}")
    return texts


def _features(
    config: Any, text: Any, count: int, encoder: TextEncoder | None, batch_size: int
) -> TextFeatures:
    if encoder is None:
        raise UserError(NO_ENCODER)
    features = encoder(_texts(text, count), config.text_len, batch_size)
    return TextFeatures(features.features, features.mask, jnp.full(count, text is None))


def _caption(config: Any, text: Any, count: int, tokenizer: CaptionTokenizer | None) -> Caption:
    if tokenizer is None:
        raise UserError("text: expected the model's caption tokenizer, found none")
    tokens, mask = tokenizer.encode(_texts(text, count), config.caption_len)
    lengths = mask.sum(axis=1) if text is not None else np.zeros(count, int)
    return Caption(jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32))


def _cond_image(config: Any, cond_tokens: Int[np.ndarray, "b l"] | None, count: int) -> CondImage:
    if cond_tokens is None:
        if not is_guidable(config):
            raise UserError("cond_images: expected pictures to make others from, got none")
        cond_tokens = np.zeros((count, config.cond_len), np.int32)
        return CondImage(jnp.asarray(cond_tokens), jnp.ones(count, bool))
    return CondImage(jnp.asarray(cond_tokens), jnp.zeros(count, bool))

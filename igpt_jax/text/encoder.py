"""Sentences to the features that a text-conditional model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.models.conditioning import TextFeatures
from igpt_jax.programs import in_parts
from igpt_jax.text.captions import clean_caption
from igpt_jax.text.t5 import T5Encoder, left_padded
from igpt_jax.text.tokenizer import TextTokenizer
from igpt_jax.typing import Array, Bool, Float, Int, Params


@dataclass(frozen=True)
class TextEncoder:
    """A text tokenizer and an encoder with its parameters.

    Attributes:
        module: the encoder.
        params: its parameters.
        tokenizer: its text tokenizer.
        cleans: whether texts are cleaned first, as LlamaGen was trained; that leaves no Chinese.
    """

    module: T5Encoder
    params: Params
    tokenizer: TextTokenizer
    cleans: bool = False

    def __post_init__(self) -> None:
        """Refuses a tokenizer with ids that the encoder does not have."""
        ids, rows = self.tokenizer.vocab_size, self.module.config.vocab_size
        if ids > rows:
            raise UserError(
                f"text tokenizer: expected at most {rows} ids, as the text encoder has, got {ids}; "
                "give the tokenizer.json published with the encoder"
            )

    def __call__(self, texts: Sequence[str], length: int, batch_size: int = 64) -> TextFeatures:
        """Features of texts in `length` slots, padded on the left as LlamaGen has them.

        Equal texts are encoded once, in parts of `batch_size`.

        Raises:
            UserError: a text is no text.
        """
        distinct = list(dict.fromkeys(texts))
        size = min(batch_size, len(distinct))
        read = [clean_caption(text) for text in distinct] if self.cleans else distinct
        tokens, mask = self.tokenizer.encode(read, length)
        encode = partial(encode_text, self.module, self.params)
        encoded = in_parts(encode, size, tokens, mask)
        place = {text: row for row, text in enumerate(distinct)}
        rows = np.array([place[text] for text in texts])
        features, padded = (jnp.asarray(array[rows]) for array in encoded)
        return TextFeatures(features, padded, jnp.zeros(len(texts), bool))


@partial(jax.jit, static_argnums=0)
def encode_text(
    module: T5Encoder,
    params: Params,
    tokens: Int[Array, "b t"] | Int[np.ndarray, "b t"],
    mask: Bool[Array, "b t"] | Bool[np.ndarray, "b t"],
) -> tuple[Float[Array, "b t d"], Bool[Array, "b t"]]:
    """Features of text ids, padded on the left, and where they are text."""
    features: Any = module.apply({"params": params}, tokens, mask)
    return left_padded(features, jnp.asarray(mask))

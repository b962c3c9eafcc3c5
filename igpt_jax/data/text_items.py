"""What a GPT with a frozen text encoder trains on besides tokens: the ids of a caption."""

import json

import numpy as np

from igpt_jax.data.pipeline import Item, ItemTransform
from igpt_jax.text.tokenizer import TextTokenizer


def with_text(
    rest: ItemTransform, tokenizer: TextTokenizer, length: int, any_wording: bool
) -> ItemTransform:
    """Encoded items as `rest` makes them, with one of their captions for a text encoder.

    That is `"text_tokens"`, int32 [t], and `"text_mask"`, bool [t], true where there is text; of
    the captions `rest` sees this one alone.

    Args:
        rest: what else is made of an item.
        tokenizer: of the text encoder.
        length: slots `t` of a caption.
        any_wording: draw one of the captions; otherwise take the first.
    """

    def prepare(item: Item, rng: np.random.Generator) -> Item:
        texts = json.loads(item["captions"])
        text = texts[rng.integers(len(texts))] if any_wording else texts[0]
        tokens, mask = tokenizer.encode([text], length)
        made = rest({**item, "captions": json.dumps([text])}, rng)
        return {**made, "text_tokens": tokens[0], "text_mask": mask[0]}

    return prepare

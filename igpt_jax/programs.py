"""The compiled programs of a model: pure functions of parameters and arrays."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.losses import token_nll
from igpt_jax.model_config import Generator
from igpt_jax.models.conditioning import Condition
from igpt_jax.resize import bicubic
from igpt_jax.tokenizers import base
from igpt_jax.tokenizers.base import ImageTokenizer
from igpt_jax.typing import Array, Float, Int, Params, UInt8


@partial(jax.jit, static_argnums=0)
def encode_images(
    tokenizer: ImageTokenizer, params: Params, images: UInt8[Array, "b h w 3"]
) -> Int[Array, "b l"]:
    """Pixels 0 to 255 to tokens."""
    return base.encode(tokenizer, params, base.to_pixels(images)).astype(jnp.int32)


@partial(jax.jit, static_argnums=(0, 3))
def decode_tokens(
    tokenizer: ImageTokenizer,
    params: Params,
    tokens: Int[Array, "b l"],
    image_size: int | None = None,
) -> UInt8[Array, "b h w 3"]:
    """Tokens to pixels 0 to 255, resized to another size if it is given.

    Resizing is bicubic and comes before rounding, as LlamaGen shows 384-pixel models at 256.
    """
    pixels = base.decode(tokenizer, params, tokens)
    if image_size is not None and image_size != tokenizer.image_size:
        pixels = bicubic(pixels, (image_size, image_size))
    return base.to_bytes(pixels)


@partial(jax.jit, static_argnums=0)
def sequence_log_likelihood(
    gpt: Generator, params: Params, tokens: Int[Array, "b l"], inputs: Array, condition: Condition
) -> Float[Array, " b"]:
    """Log-likelihood of each picture's tokens in nats; `inputs` are what the model sees of them."""
    logits: Any = gpt.apply({"params": params}, inputs, condition)
    return -token_nll(logits, tokens).sum(axis=-1)


def in_parts(function: Callable[..., Any], size: int, *arrays: Any) -> Any:
    """Applies a function to parts of `size` rows, the last one padded, so that it compiles once.

    Arguments and result are arrays or trees of arrays; the result's are NumPy's.
    """
    count = len(jax.tree.leaves(arrays)[0])

    def parts() -> Iterator[Any]:
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            out = function(*jax.tree.map(partial(_take, rows), arrays))
            yield jax.tree.map(np.asarray, out)

    return jax.tree.map(lambda *rows: np.concatenate(rows)[:count], *parts())


def _take(rows: Int[np.ndarray, " n"], array: Any) -> Any:
    return array[rows]

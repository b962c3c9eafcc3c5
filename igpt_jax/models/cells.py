"""The cells of a GPT's sequence: tokens of a picture or a video, then those of its caption.

Cells 0 to l - 1 are the picture's, frame by frame in raster order; l to l + t - 1 the caption's. An
order of cells says which stand before which: the caption before the picture it asks for, or behind
the picture that it describes.
"""

import jax.numpy as jnp
import numpy as np

from igpt_jax.models.conditioning import Caption
from igpt_jax.models.gpt_config import GPTConfig
from igpt_jax.models.rotary import raster_coordinates
from igpt_jax.typing import Array, Bool, Float, Int

NEVER = -1e30  # finite, or guidance would subtract infinities


def cell_coordinates(config: GPTConfig) -> Int[np.ndarray, "cells 3"]:
    """Coordinates (time, row, column) of every cell.

    Words are counted on all three axes alike (Wang et al. 2024, Qwen2-VL, section 2.1), and the
    frames of the picture go on where they end.
    """
    picture = raster_coordinates(config.grid_shape, config.num_frames)
    picture[:, 0] += config.caption_len
    words = np.arange(config.caption_len, dtype=np.int32)
    return np.concatenate([picture, np.stack([words] * 3, axis=-1)])


def cond_coordinates(config: GPTConfig) -> Int[np.ndarray, "l 3"]:
    """Coordinates of the picture that another is made from: in time, just before it."""
    coordinates = raster_coordinates(config.grid_shape)
    coordinates[:, 0] += config.caption_len - 1
    return coordinates


def caption_first(
    config: GPTConfig, caption: Caption
) -> tuple[Int[Array, "b t"], Int[Array, "b t"], Int[Array, " b"]]:
    """Captions padded on the left, to stand before a picture.

    Returns:
        Their tokens, their cells, and how many of the first cells are padding.
    """
    lengths, words = caption.lengths[:, None], jnp.arange(config.caption_len)
    order = (words + lengths) % config.caption_len
    tokens = jnp.take_along_axis(caption.tokens, order, axis=1)
    padding = config.caption_len - caption.lengths
    return tokens + config.vocab_size, order + config.seq_len, padding


def arrange(
    config: GPTConfig,
    tokens: Int[Array, "b l"],
    order: Int[Array, "b l"],
    caption: Caption,
    is_last: Bool[Array, " b"],
) -> tuple[Int[Array, "b s"], Int[Array, "b s"], Int[Array, " b"]]:
    """Pictures and captions as one sequence a row, the caption first or last.

    Args:
        config: of the GPT.
        tokens: of the pictures, in raster order.
        order: of their cells.
        caption: of each picture.
        is_last: rows whose caption stands behind the picture.

    Returns:
        Tokens in their order, their cells, and how many of the first cells are padding.
    """
    first_tokens, first_cells, padding = caption_first(config, caption)
    picture = jnp.take_along_axis(tokens, order, axis=1)
    last_tokens = caption.tokens + config.vocab_size
    last_cells = jnp.broadcast_to(
        config.seq_len + jnp.arange(config.caption_len), last_tokens.shape
    )
    last = is_last[:, None]
    return (
        jnp.where(
            last,
            jnp.concatenate([picture, last_tokens], axis=1),
            jnp.concatenate([first_tokens, picture], axis=1),
        ),
        jnp.where(
            last,
            jnp.concatenate([order, last_cells], axis=1),
            jnp.concatenate([first_cells, order], axis=1),
        ),
        jnp.where(is_last, 0, padding),
    )


def is_word(
    config: GPTConfig, cells: Int[Array, "b s"], caption: Caption
) -> tuple[Bool[Array, "b s"], Bool[Array, "b s"]]:
    """Which cells are the caption's, and which of these are no padding."""
    word = cells - config.seq_len
    return word >= 0, (word >= 0) & (word < caption.lengths[:, None])


def of_kind(
    config: GPTConfig, logits: Float[Array, "*b v"], cells: Int[Array, "*#b"]
) -> Float[Array, "*b v"]:
    """Logits with no mass on the ids of another kind than the cell's."""
    is_word_id = jnp.arange(logits.shape[-1]) >= config.vocab_size
    fits = is_word_id == (cells >= config.seq_len)[..., None]
    return jnp.where(fits, logits, NEVER)

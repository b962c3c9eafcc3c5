"""Shapes of what a run trains on, from its config alone: no data set has to be there."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from igpt_jax.config import RunConfig
from igpt_jax.data.sources import num_frames
from igpt_jax.partitioning import BATCH_AXES
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig

Shapes = dict[str, Any]  # of `jax.ShapeDtypeStruct`


def token_batch(config: RunConfig, batch_size: int) -> Shapes:
    """What training a GPT takes (`data.items.to_tokens`).

    Args:
        config: the run, resolved.
        batch_size: rows.
    """
    gpt = config.gpt
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {"tokens": ((gpt.seq_len,), jnp.int32)}
    if gpt.num_classes:
        shapes["label"] = ((), jnp.int32)
    if gpt.attribute_sizes:
        shapes["attributes"] = ((len(gpt.attribute_sizes),), jnp.int32)
    if gpt.caption_len:
        shapes["caption"] = ((gpt.caption_len,), jnp.int32)
        shapes["caption_length"] = ((), jnp.int32)
    if gpt.cond_image:
        shapes["cond_tokens"] = ((gpt.cond_len,), jnp.int32)
    if gpt.text_len:
        shapes["text_tokens"] = ((gpt.text_len,), jnp.int32)
        shapes["text_mask"] = ((gpt.text_len,), jnp.bool_)
    return _rows(shapes, batch_size)


def picture_batch(config: RunConfig, batch_size: int) -> Shapes:
    """What training a tokenizer takes (`data.items.to_picture`).

    Args:
        config: the run, resolved.
        batch_size: rows.
    """
    tokenizer = config.tokenizer
    shape: tuple[int, ...] = (tokenizer.image_size, tokenizer.image_size, 3)
    if isinstance(tokenizer, AutoencoderConfig) and tokenizer.num_frames > 1:
        shape = (num_frames(config.data), *shape)
    return _rows({"image": (shape, jnp.uint8)}, batch_size)


def _rows(shapes: dict[str, tuple[tuple[int, ...], Any]], batch_size: int) -> Shapes:
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }


def on_rows(tree: Any, mesh: Mesh) -> Any:
    """The same shapes, their rows over the devices that see different pictures."""
    return _laid(tree, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))


def on_all(tree: Any, mesh: Mesh) -> Any:
    """The same shapes, whole on every device."""
    return _laid(tree, NamedSharding(mesh, PartitionSpec()))


def _laid(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )

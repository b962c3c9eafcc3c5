"""The compiled programs of a model: pure functions of parameters and arrays."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from igpt_jax.losses import token_nll
from igpt_jax.model_config import Generator
from igpt_jax.models.conditioning import Condition
from igpt_jax.models.gpt import GPT
from igpt_jax.resize import bicubic
from igpt_jax.tokenizers import base
from igpt_jax.tokenizers.base import ImageTokenizer
from igpt_jax.typing import Array, Float, Int, Params, UInt8


@partial(jax.jit, static_argnums=0)
def encode_images(
    tokenizer: ImageTokenizer, params: Params, images: UInt8[Array, "b *t h w 3"]
) -> Int[Array, "b l"]:
    """Pixels 0 to 255 to tokens; of a video frame by frame, if need be."""
    pixels = base.to_pixels(images)
    if pixels.ndim == 5 and not base.sees_time(tokenizer):
        tokens = base.encode(tokenizer, params, pixels.reshape(-1, *pixels.shape[2:]))
        return tokens.reshape(len(pixels), -1).astype(jnp.int32)
    return base.encode(tokenizer, params, pixels).astype(jnp.int32)


@partial(jax.jit, static_argnums=(0, 3))
def decode_tokens(
    tokenizer: ImageTokenizer,
    params: Params,
    tokens: Int[Array, "b l"],
    image_size: int | None = None,
) -> UInt8[Array, "b *t h w 3"]:
    """Tokens to pixels 0 to 255, resized to another size if it is given.

    Tokens of more than one picture are a video's. Resizing is bicubic and comes before rounding, as
    LlamaGen shows 384-pixel models at 256.
    """
    frame_len = math.prod(tokenizer.grid_shape)
    if tokens.shape[1] == frame_len or base.sees_time(tokenizer):
        pixels = base.decode(tokenizer, params, tokens)
    else:
        pixels = base.decode(tokenizer, params, tokens.reshape(-1, frame_len))
        pixels = pixels.reshape(len(tokens), -1, *pixels.shape[1:])
    if image_size is not None and image_size != tokenizer.image_size:
        frames = pixels.reshape(-1, *pixels.shape[-3:])
        resized = bicubic(frames, (image_size, image_size))
        pixels = resized.reshape(*pixels.shape[:-3], *resized.shape[1:])
    return base.to_bytes(pixels)


@partial(jax.jit, static_argnums=0)
def sequence_log_likelihood(
    gpt: Generator, params: Params, tokens: Int[Array, "b l"], inputs: Array, condition: Condition
) -> Float[Array, " b"]:
    """Log-likelihood of each picture's tokens in nats; `inputs` are what the model sees of them."""
    logits: Any = gpt.apply({"params": params}, inputs, condition)
    return -token_nll(logits, tokens).sum(axis=-1)


@partial(jax.jit, static_argnums=0)
def layer_features(
    gpt: GPT, params: Params, inputs: Int[Array, "b s"], condition: Condition
) -> Float[Array, "b layers_plus_1 d"]:
    """What each layer of a GPT knows of pictures; `inputs` are all tokens but the last one."""
    features: Any = gpt.apply({"params": params}, inputs, condition, method="features")
    return features


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


def on_all_devices(
    program: Callable[[Params, Any], Any], params: Params, mesh: Mesh, size: int
) -> Callable[[Any], Any]:
    """A function of rows that the devices of a mesh share; of one device, the program itself.

    Each device runs the program on its own rows, without a word to the others: left alone, the
    partitioner gathers the rows of programs that go through them in chunks.

    Args:
        program: of parameters and rows, which treats each row by itself.
        params: whole on each device.
        mesh: the devices of this process.
        size: rows at once, made larger until they divide; with fewer it is padded, so that it
            compiles once.
    """
    if mesh.size == 1:
        return partial(program, params)
    shared = PartitionSpec(mesh.axis_names)
    split = jax.jit(
        jax.shard_map(
            program, mesh=mesh, in_specs=(PartitionSpec(), shared), out_specs=shared,
            check_vma=False,
        )
    )  # fmt: skip

    def run(rows: Any) -> Any:
        return split(params, jax.device_put(rows, NamedSharding(mesh, shared)))

    return partial(in_parts, run, size + -size % mesh.size)


def _take(rows: Int[np.ndarray, " n"], array: Any) -> Any:
    return array[rows]

"""What every image tokenizer offers, whichever way it makes tokens."""

import hashlib
import json
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.typing import Array, Float, Int, Params, UInt8


@runtime_checkable
class ImageTokenizer(Protocol):
    """A Flax module that turns images to a grid of tokens and back.

    `encode` and `decode` run under `apply`: `tokenizer.apply({"params": params}, images,
    method="encode")`. Images are float32 in [-1, 1]; tokens are in raster order.
    """

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        ...

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        ...

    def encode(self, images: Float[Array, "b *t h w 3"]) -> Int[Array, "b l"]:
        """Return the tokens of images."""
        ...

    def decode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b *t h w 3"]:
        """Return the images of tokens, not clipped."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a method with parameters; every Flax module has it."""
        ...


class ConfiguredTokenizer(nn.Module):
    """What every tokenizer module tells of its config.

    Attributes:
        config: its size; has the three below.
    """

    config: Any

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.config.image_size

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of tokens, of a video those of one frame."""
        return self.config.grid_shape

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.config.vocab_size


def encode(
    tokenizer: ImageTokenizer, params: Params, images: Float[Array, "b *t h w 3"]
) -> Int[Array, "b l"]:
    """Return the tokens of images in [-1, 1]: a pure function, to be jitted by the caller."""
    return tokenizer.apply({"params": params}, images, method="encode")


def decode(
    tokenizer: ImageTokenizer, params: Params, tokens: Int[Array, "b l"]
) -> Float[Array, "b *t h w 3"]:
    """Return the images of tokens: a pure function, to be jitted by the caller."""
    return tokenizer.apply({"params": params}, tokens, method="decode")


def sees_time(tokenizer: ImageTokenizer) -> bool:
    """Whether a tokenizer takes videos as they are, and not one frame at a time."""
    return getattr(getattr(tokenizer, "config", None), "num_frames", 1) > 1


def to_pixels(images: UInt8[Array, "*n"] | UInt8[np.ndarray, "*n"]) -> Float[Array, "*n"]:
    """Return pixels in [-1, 1] of bytes, in a compiled program; `to_bytes` inverts it."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def to_bytes(pixels: Float[Array, "*n"]) -> UInt8[Array, "*n"]:
    """Return the nearest bytes of pixels, clipped to [-1, 1]."""
    return jnp.round(jnp.clip(127.5 * (pixels + 1), 0, 255)).astype(jnp.uint8)


def tokenizer_hash(config_json: str, params: Params) -> str:
    """Return the SHA-256 (hex) of a tokenizer: equal hashes, equal tokens.

    It covers the config, whatever its spacing and order of keys, and the name, shape, dtype and
    little-endian bytes of every parameter.

    Args:
        config_json: the tokenizer's config as JSON.
        params: its parameters.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(json.loads(config_json), sort_keys=True).encode())
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    for name in sorted(named):
        values = np.asarray(named[name])
        digest.update(f"\n{name} {values.shape} {values.dtype.name}\n".encode())
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()

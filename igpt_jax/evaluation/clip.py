"""CLIP (Radford et al. 2021): pictures and texts to vectors of one space.

The image tower is a Vision Transformer with a norm before its first block, the text tower a causal
Transformer that is read at the text's end (section 2.4). All computes in float32: a score must not
change with the accelerator.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.data.geometry import resize
from igpt_jax.evaluation.clip_blocks import TowerConfig, Transformer
from igpt_jax.models.layers import LayerNorm, kernel_init
from igpt_jax.typing import Array, Float, Int, Params, UInt8

LEGACY_END_ID: Final = 2
"""An `end_id` that OpenAI's first configs name, and that no text has."""

# Mean and standard deviation of the channels, of pixels in [0, 1], as OpenAI prepares pictures.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)
_LOGIT_SCALE: Final = float(np.log(1 / 0.07))  # that training starts with (section 2.5)


@dataclass(frozen=True)
class CLIPConfig:
    """The shape of both towers.

    Attributes:
        image: the image tower's Transformer.
        text: the text tower's Transformer.
        image_size: pixels a side of a picture.
        patch_size: pixels a side of a patch.
        vocab_size: rows of the text embedding.
        text_len: slots of a text.
        end_id: the text id that the text tower is read at, the first of them; `LEGACY_END_ID`
            stands for the largest id of each text, as Hugging Face's files have it.
        projection_dim: channels of the space that both share.
    """

    image: TowerConfig
    text: TowerConfig
    image_size: int
    patch_size: int
    vocab_size: int
    text_len: int
    end_id: int
    projection_dim: int

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


class ImageTower(nn.Module):
    """Pictures to the state of their class token."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Reads pictures as `normalised` makes them."""
        config, size = self.config.image, self.config.patch_size
        patches = nn.Conv(
            config.embed_dim,
            (size, size),
            strides=size,
            padding="VALID",
            use_bias=False,
            kernel_init=kernel_init(None, None, None, "embed"),
            name="patch_embedding",
        )(pixels)
        init, dim = kernel_init("embed"), config.embed_dim
        start: Any = self.param("class_embedding", init, (dim,), jnp.float32)
        shape = (1 + self.config.num_patches, dim)
        places: Any = self.param(
            "position_embedding", kernel_init(None, "embed"), shape, jnp.float32
        )
        starts = jnp.broadcast_to(start, (len(pixels), 1, dim))
        x = jnp.concatenate([starts, patches.reshape(len(pixels), -1, dim)], axis=1) + places
        x = LayerNorm(config.norm_epsilon, name="pre_norm")(x)
        x = Transformer(config, is_causal=False, name="transformer")(x)
        return LayerNorm(config.norm_epsilon, name="post_norm")(x[:, 0])


class TextTower(nn.Module):
    """Texts to the state of their end."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Reads text ids; what follows the end of a text does not matter."""
        config, whole = self.config.text, self.config
        dim = config.embed_dim
        table: Any = self.param(
            "token_embedding", kernel_init("vocab", "embed"), (whole.vocab_size, dim), jnp.float32
        )
        places: Any = self.param(
            "position_embedding", kernel_init(None, "embed"), (whole.text_len, dim), jnp.float32
        )
        x = table[tokens] + places[: tokens.shape[1]]
        x = Transformer(config, is_causal=True, name="transformer")(x)
        is_end = tokens if whole.end_id == LEGACY_END_ID else tokens == whole.end_id
        ends = jnp.argmax(is_end, axis=1)[:, None, None]
        found = jnp.take_along_axis(x, ends, axis=1)[:, 0]
        return LayerNorm(config.norm_epsilon, name="post_norm")(found)


class CLIP(nn.Module):
    """Both towers. `params` is its only collection; it draws no dropout."""

    config: CLIPConfig

    def setup(self) -> None:
        """Builds the towers and the projections."""
        dense = partial(
            nn.Dense,
            self.config.projection_dim,
            use_bias=False,
            kernel_init=kernel_init("embed", None),
        )
        self.image_tower = ImageTower(self.config)
        self.text_tower = TextTower(self.config)
        self.image_projection = dense()
        self.text_projection = dense()
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(_LOGIT_SCALE), (), jnp.float32
        )

    def __call__(
        self, pixels: Float[Array, "i h w 3"], tokens: Int[Array, "j t"]
    ) -> Float[Array, "i j"]:
        """Logits of each text for each picture: cosines, scaled as in training."""
        images = unit_length(self.embed_images(pixels))
        texts = unit_length(self.embed_texts(tokens))
        return jnp.exp(self.logit_scale) * images @ texts.T

    def embed_images(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        """Vectors of pictures as `normalised` makes them, of any length."""
        return self.image_projection(self.image_tower(pixels))

    def embed_texts(self, tokens: Int[Array, "b t"]) -> Float[Array, "b e"]:
        """Vectors of text ids, of any length."""
        return self.text_projection(self.text_tower(tokens))


def unit_length(vectors: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Vectors of the same directions and of length 1."""
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


@partial(jax.jit, static_argnums=0)
def embed_images(
    module: CLIP, params: Params, images: UInt8[Array, "b s s 3"]
) -> Float[Array, "b e"]:
    """Unit vectors of pictures in [0, 255] of the network's size, see `prepared`."""
    with jax.default_matmul_precision("highest"):
        found: Any = module.apply({"params": params}, normalised(images), method="embed_images")
    return unit_length(found)


@partial(jax.jit, static_argnums=0)
def embed_texts(module: CLIP, params: Params, tokens: Int[Array, "b t"]) -> Float[Array, "b e"]:
    """Unit vectors of text ids."""
    with jax.default_matmul_precision("highest"):
        found: Any = module.apply({"params": params}, tokens, method="embed_texts")
    return unit_length(found)


def prepared(images: UInt8[np.ndarray, "b h w 3"], size: int) -> UInt8[np.ndarray, "b s s 3"]:
    """Pictures of the network's size: the shorter side to `size`, then the middle square.

    Bicubic with Pillow's low-pass filter, as OpenAI and Hugging Face's image processor do it.
    """
    h, w = images.shape[1:3]
    short = min(h, w)
    rows, columns = size * h // short, size * w // short
    top, left = (rows - size) // 2, (columns - size) // 2
    scaled = np.stack([resize(image, rows, columns) for image in images])
    return scaled[:, top : top + size, left : left + size]


def normalised(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Pixels in [0, 255] as the network takes them: each channel with its mean and deviation."""
    pixels = images.astype(jnp.float32) / 255
    return (pixels - jnp.array(_MEAN)) / jnp.array(_DEVIATION)


def clip_scores(
    images: Float[np.ndarray, "b e"], texts: Float[np.ndarray, "b e"]
) -> Float[np.ndarray, " b"]:
    """CLIPScore of each picture with its text (Hessel et al. 2021, section 3), from 0 to 100.

    It is 100 max(cos, 0). The paper has w = 2.5 in place of 100: its numbers are 40 times smaller.

    Args:
        images: unit vectors of pictures.
        texts: unit vectors of their texts.
    """
    return 100 * np.maximum(np.sum(images * texts, axis=-1, dtype=np.float64), 0)

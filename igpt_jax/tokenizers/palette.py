"""The tokenizer of iGPT: each pixel becomes the nearest colour of a palette.

Source: Chen et al. 2020, "Generative Pretraining from Pixels", section 3.2 ("9-bit color").
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.base import ConfiguredTokenizer
from igpt_jax.tokenizers.kmeans import CHUNK_SIZE, kmeans, nearest
from igpt_jax.typing import Array, Float, Int, Params, PRNGKey, UInt8


@dataclass(frozen=True)
class PaletteConfig:
    """Size of a palette tokenizer.

    Attributes:
        image_size: pixels a side; every pixel is one token.
        num_colors: colours of the palette, iGPT's 512 = 9 bits.
        path: a file with the colours, such as OpenAI's `kmeans_centers.npy`, instead of a fit.
    """

    image_size: int = 32
    num_colors: int = 512
    path: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "num_colors"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}; raise it")

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image_size, self.image_size

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.num_colors


def uniform_colors(key: PRNGKey, shape: tuple[int, int], dtype: Dtype) -> Float[Array, "v 3"]:
    """Start a palette with random colours, which stand in until it is fitted or loaded."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


class Palette(ConfiguredTokenizer):
    """An `ImageTokenizer` with one token a pixel.

    Attributes:
        config: image size and number of colours.
    """

    config: PaletteConfig

    def setup(self) -> None:
        """Declare the palette."""
        shape = (self.config.num_colors, 3)
        self.codebook = self.param("codebook", uniform_colors, shape, jnp.float32)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Return images painted with the palette only."""
        return self.decode(self.encode(images))

    def encode(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b l"]:
        """Return the nearest colour of every pixel (smallest squared distance in RGB)."""
        pixels = images.reshape(images.shape[0], -1, 3)
        return nearest(pixels, self.codebook, chunk_size=CHUNK_SIZE)

    def decode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b h w 3"]:
        """Return the images of tokens."""
        return self.codebook[tokens].reshape(tokens.shape[0], *self.grid_shape, 3)


def fit_palette(
    images: UInt8[np.ndarray, "n h w 3"] | Float[Array, "n h w 3"] | Float[np.ndarray, "n h w 3"],
    num_colors: int,
    key: PRNGKey,
    *,
    num_iterations: int = 20,
    max_pixels: int = 1_000_000,
) -> Params:
    """Fit a palette to images by k-means.

    Args:
        images: pixels, uint8 or float in [-1, 1].
        num_colors: colours of the palette; more than the images have leaves some unused.
        key: decides which pixels are taken and the k-means start; same key, same palette.
        num_iterations: Lloyd iterations.
        max_pixels: pixels drawn without replacement when there are more.

    Returns:
        The parameters of `Palette`.
    """
    sample_key, kmeans_key = jax.random.split(key)
    pixels = np.asarray(images).reshape(-1, 3)
    if len(pixels) > max_pixels:
        generator = np.random.default_rng(np.asarray(jax.random.key_data(sample_key)))
        pixels = pixels[generator.choice(len(pixels), max_pixels, replace=False)]
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 127.5 - 1.0
    result = kmeans(
        jnp.asarray(pixels, jnp.float32),
        kmeans_key,
        num_clusters=num_colors,
        num_iterations=num_iterations,
    )
    return {"codebook": result.centers}


def load_palette(path: str | Path, *, num_colors: int | None = None) -> Params:
    """Load a palette from an `.npy` file of shape [v, 3], such as OpenAI's `kmeans_centers.npy`.

    A float file holds RGB in [-1, 1], a uint8 file RGB in [0, 255]; the dtype alone decides.

    Args:
        path: the file.
        num_colors: how many colours it must have; None for any number.

    Returns:
        The parameters of `Palette`.

    Raises:
        UserError: the file is no such palette.
    """
    path = Path(path)
    try:
        colors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"palette {path}: expected an .npy file, got {type(error).__name__}; "
            "save the colours with numpy.save"
        ) from error
    if not isinstance(colors, np.ndarray) or colors.shape[1:] != (3,) or not len(colors):
        got = getattr(colors, "shape", "several arrays")
        raise UserError(
            f"palette {path}: expected shape [v, 3], got {got}; give one RGB row a colour"
        )
    if num_colors not in (None, len(colors)):
        raise UserError(
            f"palette {path}: expected {num_colors} colours, got {len(colors)}; set num_colors"
        )
    if colors.dtype == np.uint8:
        return {"codebook": jnp.asarray(colors.astype(np.float32) / 127.5 - 1.0)}
    if not np.issubdtype(colors.dtype, np.floating):
        raise UserError(
            f"palette {path}: expected float RGB in [-1, 1] or uint8 RGB in [0, 255], got "
            f"{colors.dtype}; convert it"
        )
    # `not <=` also refuses NaN.
    if not np.all(np.abs(colors) <= 1.0 + 1e-3):
        raise UserError(
            f"palette {path}: expected floats in [-1, 1], got {colors.min():.4g} to "
            f"{colors.max():.4g}; save RGB in [0, 255] as uint8"
        )
    return {"codebook": jnp.asarray(colors, jnp.float32)}

"""The convolutional image tokenizer of VQGAN and LlamaGen, for any size of model."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.tokenizers.autoencoder_blocks import Dtypes
from igpt_jax.tokenizers.autoencoder_config import AutoencoderConfig
from igpt_jax.tokenizers.base import ConfiguredTokenizer
from igpt_jax.tokenizers.encoder_decoder import Decoder, Encoder
from igpt_jax.tokenizers.quantizers import build_quantizer
from igpt_jax.typing import Array, Float, Int

__all__ = ["Autoencoder", "AutoencoderConfig", "AutoencoderOutput"]


class AutoencoderOutput(NamedTuple):
    """Everything that training looks at."""

    reconstruction: Float[Array, "b *t h w 3"]
    tokens: Int[Array, "b l"]
    latents: Float[Array, "b *gt gh gw d"]
    quantized: Float[Array, "b *gt gh gw d"]
    losses: dict[str, Float[Array, ""]]
    """The quantizer's terms, unweighted."""


class Autoencoder(ConfiguredTokenizer):
    """Encoder, quantizer and decoder: an `ImageTokenizer` that is trained (Esser et al. 2021).

    A config with `num_frames` above 1 makes it a tokenizer of videos `[b t h w 3]`, too: their
    tokens lie frame by frame, and the first latent frame's are those of the first frame as an image
    (Yu et al. 2024, section 3.2). Latents and reconstructions of images have no axis of frames.

    Attributes:
        config: its size.
        dtype: dtype of the computation; quantization is always float32.
        param_dtype: dtype of the parameters.
    """

    config: AutoencoderConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the parts."""
        config = self.config
        dtypes = Dtypes(dtype=self.dtype, param_dtype=self.param_dtype)
        self.encoder = Encoder(config=config, local=config.local_encoder, **dtypes)
        self.quant_conv = nn.Conv(config.quantizer.code_dim, (1, 1), padding="VALID", **dtypes)
        self.quantizer = build_quantizer(config.quantizer)
        self.post_quant_conv = nn.Conv(config.latent_channels, (1, 1), padding="VALID", **dtypes)
        self.decoder = Decoder(config=config, **dtypes)

    @property
    def num_latent_frames(self) -> int:
        """Grids of tokens of the longest video; 1 for an image tokenizer."""
        return self.config.num_latent_frames

    def __call__(
        self, images: Float[Array, "b *t h w 3"], *, deterministic: bool = True
    ) -> AutoencoderOutput:
        """Encode, quantize and reconstruct images; the quantizer says how gradients pass it.

        `deterministic=False` needs the random streams `dropout` and `quantizer`.
        """
        latents = self.latents(images, deterministic=deterministic)
        result = self.quantizer(latents, deterministic=deterministic)
        return AutoencoderOutput(
            reconstruction=self.reconstruct(result.quantized, deterministic=deterministic),
            tokens=result.tokens.reshape(images.shape[0], -1),
            latents=latents,
            quantized=result.quantized,
            losses=result.losses,
        )

    def latents(
        self, images: Float[Array, "b *t h w 3"], *, deterministic: bool = True
    ) -> Float[Array, "b *gt gh gw d"]:
        """Return the latents of images, in float32."""
        features = self.encoder(images.astype(self.dtype), deterministic=deterministic)
        return self.quant_conv(features).astype(jnp.float32)

    def encode(self, images: Float[Array, "b *t h w 3"]) -> Int[Array, "b l"]:
        """Return the tokens of images, frame by frame, in raster order; levels coarse to fine."""
        return self.quantizer(self.latents(images)).tokens.reshape(images.shape[0], -1)

    def decode(
        self, tokens: Int[Array, "b l"], *, grid_shape: tuple[int, int] | None = None
    ) -> Float[Array, "b *t h w 3"]:
        """Return the images of tokens, not clipped to [-1, 1].

        A tokenizer of videos returns videos; the tokens of one frame make a video of one.

        Args:
            tokens: of one or more frames.
            grid_shape: rows and columns of positions, for images of another size than the
                config's: encoder and decoder are convolutions and take any.
        """
        rows, columns, *levels = self.config.token_shape
        grid = (*(grid_shape or (rows, columns)), *levels)
        frames = self.config.latent_frames(tokens.shape[1], math.prod(grid))
        return self.reconstruct(
            self.quantizer.lookup(tokens.reshape(tokens.shape[0], *frames, *grid))
        )

    def reconstruct(
        self, quantized: Float[Array, "b *gt gh gw d"], *, deterministic: bool = True
    ) -> Float[Array, "b *t h w 3"]:
        """Return the images of quantized latents, not clipped to [-1, 1]."""
        features = self.post_quant_conv(quantized.astype(self.dtype))
        return self.decoder(features, deterministic=deterministic).astype(jnp.float32)

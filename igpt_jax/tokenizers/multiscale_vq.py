"""The multi-scale tokenizer of VAR (Tian et al. 2024, section 3.2, algorithms 1 and 2).

A picture is ten square maps of tokens, 1 x 1 to 16 x 16. Each map, blown up to the finest size and
passed through a convolution, adds detail to the sum of those before it. Unlike those of the other
tokenizers, tokens lie in no single grid: they come scale by scale, coarse to fine, in raster order
within each. The module is there to load published weights; the losses that train it are not here.
"""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.resize import area, bicubic
from igpt_jax.scales import SCALES_256, check_scales, num_tokens, scale_bounds
from igpt_jax.tokenizers.autoencoder_blocks import Dtypes
from igpt_jax.tokenizers.autoencoder_config import AutoencoderConfig
from igpt_jax.tokenizers.base import ConfiguredTokenizer
from igpt_jax.tokenizers.encoder_decoder import Decoder, Encoder
from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig
from igpt_jax.tokenizers.quantizers.vector import uniform_codebook
from igpt_jax.typing import Array, Float, Int

NUM_PHI = 4  # convolutions that all scales share
PHI_WEIGHT = 0.5


@dataclass(frozen=True)
class MultiscaleVQConfig:
    """Size of a multi-scale tokenizer; the defaults are VAR's for 256 pixels.

    Attributes:
        image_size: pixels a side.
        base_channels: channels at the highest resolution, times that level's multiplier.
        channel_multipliers: one a level; each level but the last halves the resolution.
        num_res_blocks: residual blocks a level in the encoder; the decoder has one more.
        latent_channels: channels of latents and codes.
        codebook_size: codes, the same for all scales.
        scales: tokens a side of each map; 1 first, the grid of the latents last.
    """

    image_size: int = 256
    base_channels: int = 160
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    latent_channels: int = 32
    codebook_size: int = 4_096
    scales: tuple[int, ...] = SCALES_256

    def __post_init__(self) -> None:
        """Refuses scales that do not end with the grid of the latents."""
        check_scales(self.scales, "multi-scale tokenizer")
        side = self.image_size // self.autoencoder.downsample
        if self.scales[-1] != side:
            raise UserError(
                f"multi-scale tokenizer: expected the last scale to be {side}, for "
                f"{self.image_size} pixels, got {self.scales[-1]}; change image_size or scales"
            )

    @property
    def autoencoder(self) -> AutoencoderConfig:
        """The size of encoder and decoder."""
        return AutoencoderConfig(
            image_size=self.image_size,
            base_channels=self.base_channels,
            channel_multipliers=self.channel_multipliers,
            num_res_blocks=self.num_res_blocks,
            latent_channels=self.latent_channels,
            quantizer=VectorQuantizerConfig(self.codebook_size, self.latent_channels, False),
        )

    @property
    def seq_len(self) -> int:
        """Tokens `l` of one picture."""
        return num_tokens(self.scales)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """One row of all tokens, for they lie in no one grid; see `scales`."""
        return 1, self.seq_len

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.codebook_size

    @property
    def phi_of_scale(self) -> tuple[int, ...]:
        """Which of the shared convolutions each scale has.

        The four sit at 1/12, 13/36, 23/36 and 11/12 of the way from the first scale to the last,
        and a scale takes the nearest, the later one if two are equally near.
        """
        last = len(self.scales) - 1
        return tuple((18 * scale + last) // (5 * last) for scale in range(last + 1))


class MultiscaleVQ(ConfiguredTokenizer):
    """Encoder, multi-scale residual quantizer and decoder: an `ImageTokenizer`.

    Attributes:
        config: its size.
        dtype: dtype of encoder and decoder; quantization is always float32.
        param_dtype: dtype of the parameters.
    """

    config: MultiscaleVQConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the parts."""
        config = self.config
        dtypes = Dtypes(dtype=self.dtype, param_dtype=self.param_dtype)
        exact = Dtypes(dtype=jnp.float32, param_dtype=self.param_dtype)
        conv = partial(nn.Conv, config.latent_channels, (3, 3), padding=((1, 1), (1, 1)))
        self.encoder = Encoder(
            config=config.autoencoder, local=config.autoencoder.local_encoder, **dtypes
        )
        self.quant_conv = conv(**dtypes)
        self.codebook: Any = self.param(
            "codebook",
            uniform_codebook,
            (config.codebook_size, config.latent_channels),
            self.param_dtype,
        )
        self.phi = [conv(precision=jax.lax.Precision.HIGHEST, **exact) for _ in range(NUM_PHI)]
        self.post_quant_conv = conv(**dtypes)
        self.decoder = Decoder(config=config.autoencoder, **dtypes)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Return the reconstruction of images; initialization runs it."""
        return self.decode(self.encode(images))

    def latents(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Return the latents of images, in float32."""
        features = self.encoder(images.astype(self.dtype), deterministic=True)
        return self.quant_conv(features).astype(jnp.float32)

    def encode(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b l"]:
        """Return the tokens of images, coarse to fine."""
        return self.quantize(self.latents(images))

    def quantize(self, latents: Float[Array, "b gh gw d"]) -> Int[Array, "b l"]:
        """Return the tokens of latents (algorithm 1).

        Each scale takes the nearest codes of the means, over its cells, of what the scales before
        it left over.
        """
        rest, maps = latents, []
        for index, side in enumerate(self.config.scales):
            tokens = nearest(area(rest, (side, side)), self.codebook)
            maps.append(tokens.reshape(len(latents), side * side))
            rest = rest - self.detail(maps[-1], index)
        return jnp.concatenate(maps, axis=1)

    def decode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b h w 3"]:
        """Return the images of tokens, clipped to [-1, 1] as published (algorithm 2)."""
        return self.reconstruct(self.accumulate(tokens)[-1])

    def accumulate(self, tokens: Int[Array, "b l"]) -> list[Float[Array, "b gh gw d"]]:
        """Return the sum of details after each scale; the last is what the decoder sees."""
        bounds = enumerate(scale_bounds(self.config.scales))
        details = [self.detail(tokens[:, start:end], index) for index, (start, end) in bounds]
        return list(accumulate(details))

    def next_inputs(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l_minus_1 d"]:
        """Return what the transformer sees of known tokens: the inputs of all scales but the first.

        The tokens of the last scale are input of none and do not matter.
        """
        totals = self.accumulate(tokens)
        inputs = [self.next_input(total, index + 1) for index, total in enumerate(totals[:-1])]
        return jnp.concatenate(inputs, axis=1)

    def detail(self, tokens: Int[Array, "b s"], scale: int) -> Float[Array, "b gh gw d"]:
        """Return what the tokens of one scale add to the sum.

        Args:
            tokens: of that scale alone.
            scale: its index.
        """
        side, largest = self.config.scales[scale], self.config.scales[-1]
        codes = self.codebook.astype(jnp.float32)[tokens]
        codes = codes.reshape(len(tokens), side, side, self.config.latent_channels)
        codes = bicubic(codes, (largest, largest))
        convolved = self.phi[self.config.phi_of_scale[scale]](codes)
        return (1 - PHI_WEIGHT) * codes + PHI_WEIGHT * convolved

    def next_input(self, total: Float[Array, "b gh gw d"], scale: int) -> Float[Array, "b s d"]:
        """Return the sum of the scales before one, seen at the size of that one.

        Args:
            total: the sum of details.
            scale: index of the scale to predict, 1 or more.
        """
        side = self.config.scales[scale]
        return area(total, (side, side)).reshape(len(total), side * side, -1)

    def reconstruct(self, total: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Return the images of a sum of details, clipped to [-1, 1]."""
        features = self.post_quant_conv(total.astype(self.dtype))
        images = self.decoder(features, deterministic=True).astype(jnp.float32)
        return jnp.clip(images, -1.0, 1.0)

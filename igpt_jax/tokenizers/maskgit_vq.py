"""The tokenizer of MaskGIT (Chang et al. 2022, section 3), which RAR, RandAR and TiTok use, too.

It is VQGAN without attention, and it pools where VQGAN has convolutions of stride 2. The published
weights need two things that nobody would write today: where a residual block changes the number of
channels, its shortcut starts from the output of the block instead of its input, and pixels are in
[0, 1]. Callers do not see the latter: as with every tokenizer, their images are in [-1, 1].
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.autoencoder_blocks import ConvLayer, Dtypes, Upsample
from igpt_jax.tokenizers.base import ConfiguredTokenizer
from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.tokenizers.quantizers.vector import uniform_codebook
from igpt_jax.typing import Array, Float, Int


@dataclass(frozen=True)
class MaskGITVQConfig:
    """Size of the tokenizer; the defaults are those of the published ImageNet weights.

    Attributes:
        image_size: pixels a side.
        base_channels: channels at the highest resolution, times that level's multiplier.
        channel_multipliers: one a level; each level but the last halves the resolution.
        num_res_blocks: residual blocks a level, and next to the quantizer.
        latent_channels: dimensions of a code.
        codebook_size: number of codes.
    """

    image_size: int = 256
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    latent_channels: int = 256
    codebook_size: int = 1024

    def __post_init__(self) -> None:
        if not self.channel_multipliers:
            raise UserError("expected one or more channel_multipliers, got none; try (1, 2)")
        if self.image_size < 1 or self.image_size % self.downsample:
            raise UserError(
                f"expected image_size to be a multiple of the downsampling {self.downsample}, got "
                f"{self.image_size}; change image_size or channel_multipliers"
            )

    @property
    def downsample(self) -> int:
        """Pixels a side of one token."""
        return 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        side = self.image_size // self.downsample
        return side, side

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.codebook_size

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)


class MaskGITVQ(ConfiguredTokenizer):
    """Encoder, nearest code and decoder: an `ImageTokenizer`.

    Attributes:
        config: its size.
        dtype: dtype of the computation; the nearest code is always found in float32.
        param_dtype: dtype of the parameters.
    """

    config: MaskGITVQConfig
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the parts."""
        config = self.config
        dtypes = Dtypes(dtype=self.dtype, param_dtype=self.param_dtype)
        self.encoder = _Encoder(config=config, **dtypes)
        self.decoder = _Decoder(config=config, **dtypes)
        shape = (config.codebook_size, config.latent_channels)
        self.codebook = self.param("codebook", uniform_codebook, shape, self.param_dtype)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Return the reconstruction of images in [-1, 1], not clipped."""
        return self.decode(self.encode(images))

    def latents(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Return the latents of images in [-1, 1], in float32."""
        unit = (images + 1) / 2
        return self.encoder(unit.astype(self.dtype)).astype(jnp.float32)

    def encode(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b l"]:
        """Return the tokens of images in [-1, 1], in raster order."""
        tokens = nearest(self.latents(images), self.codebook)
        return tokens.reshape(images.shape[0], -1)

    def decode(self, tokens: Int[Array, "b l"]) -> Float[Array, "b h w 3"]:
        """Return the images of tokens in raster order, not clipped to [-1, 1]."""
        grid = tokens.reshape(tokens.shape[0], *self.config.grid_shape)
        unit = self.decoder(self.codebook[grid].astype(self.dtype))
        return 2 * unit.astype(jnp.float32) - 1


class _Layer(ConvLayer, kw_only=True):
    """What the layers below share: a convolution without bias."""

    def conv_without_bias(
        self, name: str, channels: int, features: Float[Array, "b h w c"], *, kernel_size: int = 3
    ) -> Float[Array, "b h w channels"]:
        """Apply a convolution that keeps height and width."""
        conv = nn.Conv(
            channels,
            (kernel_size, kernel_size),
            padding=[(kernel_size // 2, kernel_size // 2)] * 2,
            use_bias=False,
            name=name,
            **self.dtypes,
        )
        return conv(features)


class _ResBlock(_Layer, kw_only=True):
    """Twice norm, swish and convolution; added to the input if that has as many channels."""

    channels: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w channels"]:
        """Transform a feature map."""
        hidden = nn.swish(self.norm("norm_0", features))
        hidden = self.conv_without_bias("conv_0", self.channels, hidden)
        hidden = nn.swish(self.norm("norm_1", hidden))
        hidden = self.conv_without_bias("conv_1", self.channels, hidden)
        if features.shape[-1] == self.channels:
            return features + hidden
        # The published weights were trained so: the input does not pass by the block.
        return self.conv_without_bias("shortcut", self.channels, hidden, kernel_size=1) + hidden


class _Stack(_Layer, kw_only=True):
    """What encoder and decoder share: rows of blocks."""

    config: MaskGITVQConfig

    def blocks(
        self, name: str, channels: int, features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w channels"]:
        """Apply residual blocks one after the other."""
        for index in range(self.config.num_res_blocks):
            block = _ResBlock(channels=channels, name=f"{name}_res_{index}", **self.dtypes)
            features = block(features)
        return features


class _Encoder(_Stack, kw_only=True):
    """Images in [0, 1] to latents."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """Encode images."""
        config = self.config
        features = self.conv_without_bias("conv_in", config.base_channels, images)
        for index, channels in enumerate(config.level_channels):
            features = self.blocks(f"level_{index}", channels, features)
            if index < len(config.level_channels) - 1:
                features = nn.avg_pool(features, (2, 2), strides=(2, 2), padding="VALID")
        features = self.blocks("mid", config.level_channels[-1], features)
        features = nn.swish(self.norm("norm_out", features))
        return self.conv("conv_out", config.latent_channels, features, kernel_size=1)


class _Decoder(_Stack, kw_only=True):
    """Codes to images in [0, 1], not clipped."""

    @nn.compact
    def __call__(self, features: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """Decode feature maps."""
        config = self.config
        features = self.conv("conv_in", config.level_channels[-1], features)
        features = self.blocks("mid", config.level_channels[-1], features)
        for index, channels in reversed([*enumerate(config.level_channels)]):
            features = self.blocks(f"level_{index}", channels, features)
            if index > 0:
                features = Upsample(name=f"level_{index}_upsample", **self.dtypes)(features)
        return self.conv("conv_out", 3, nn.swish(self.norm("norm_out", features)))

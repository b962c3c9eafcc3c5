"""The convolutional encoder and decoder of VQGAN (Esser et al. 2021, appendix E, table 7)."""

import flax.linen as nn

from igpt_jax.tokenizers.autoencoder_blocks import (
    ConvLayer,
    Downsample,
    ResBlock,
    SpatialAttention,
    Upsample,
    depth_to_space,
    space_to_depth,
)
from igpt_jax.tokenizers.autoencoder_config import AutoencoderConfig
from igpt_jax.typing import Array, Float


class _Stack(ConvLayer, kw_only=True):
    """What encoder and decoder share: levels of blocks, and the middle."""

    config: AutoencoderConfig

    def level(
        self,
        index: int,
        num_blocks: int,
        features: Float[Array, "b h w c"],
        *,
        deterministic: bool,
    ) -> Float[Array, "b h w d"]:
        """Apply the blocks of one level; level 0 has the highest resolution."""
        config = self.config
        is_lowest = index == len(config.level_channels) - 1
        for block in range(num_blocks):
            res_block = self._res_block(f"level_{index}_res_{block}", config.level_channels[index])
            features = res_block(features, deterministic=deterministic)
            if config.attention and is_lowest:
                name = f"level_{index}_attention_{block}"
                features = SpatialAttention(name=name, **self.dtypes)(features)
        return features

    def middle(
        self, features: Float[Array, "b h w c"], *, deterministic: bool
    ) -> Float[Array, "b h w c"]:
        """Apply the blocks at the lowest resolution that keep the number of channels."""
        if not self.config.middle:
            return features
        channels = features.shape[-1]
        features = self._res_block("mid_res_0", channels)(features, deterministic=deterministic)
        if self.config.attention:
            features = SpatialAttention(name="mid_attention", **self.dtypes)(features)
        return self._res_block("mid_res_1", channels)(features, deterministic=deterministic)

    def head(self, channels: int, features: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Apply the last norm and convolution."""
        return self.conv("conv_out", channels)(nn.swish(self.norm("norm_out", features)))

    def _res_block(self, name: str, channels: int) -> ResBlock:
        rate = self.config.dropout_rate
        return ResBlock(channels=channels, dropout_rate=rate, name=name, **self.dtypes)


class Encoder(_Stack, kw_only=True):
    """Images to feature maps of `latent_channels`."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, deterministic: bool
    ) -> Float[Array, "b gh gw c"]:
        """Encode images."""
        config = self.config
        features = space_to_depth(images, config.patch_size)
        features = self.conv("conv_in", config.base_channels)(features)
        num_levels = len(config.level_channels)
        for index in range(num_levels):
            features = self.level(
                index, config.num_res_blocks, features, deterministic=deterministic
            )
            if index < num_levels - 1:
                features = Downsample(name=f"level_{index}_downsample", **self.dtypes)(features)
        features = self.middle(features, deterministic=deterministic)
        return self.head(config.latent_channels, features)


class Decoder(_Stack, kw_only=True):
    """Feature maps of `latent_channels` to images; the levels mirror the encoder's."""

    @nn.compact
    def __call__(
        self, features: Float[Array, "b gh gw c"], *, deterministic: bool
    ) -> Float[Array, "b h w 3"]:
        """Decode feature maps."""
        config = self.config
        features = self.conv("conv_in", config.level_channels[-1])(features)
        features = self.middle(features, deterministic=deterministic)
        for index in reversed(range(len(config.level_channels))):
            features = self.level(
                index, config.decoder_res_blocks, features, deterministic=deterministic
            )
            if index > 0:
                features = Upsample(name=f"level_{index}_upsample", **self.dtypes)(features)
        features = self.head(3 * config.patch_size**2, features)
        return depth_to_space(features, config.patch_size)

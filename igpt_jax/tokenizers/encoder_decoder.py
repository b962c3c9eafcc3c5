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
from igpt_jax.tokenizers.video import CausalConv, repeat_frames
from igpt_jax.typing import Array, Float


class _Stack(ConvLayer, kw_only=True):
    """What encoder and decoder share: levels of blocks, and the middle."""

    config: AutoencoderConfig

    def level(
        self,
        index: int,
        num_blocks: int,
        features: Float[Array, "b *t h w c"],
        *,
        deterministic: bool,
    ) -> Float[Array, "b *t h w d"]:
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
        self, features: Float[Array, "b *t h w c"], *, deterministic: bool
    ) -> Float[Array, "b *t h w c"]:
        """Apply the blocks at the lowest resolution that keep the number of channels."""
        if not self.config.middle:
            return features
        channels = features.shape[-1]
        features = self._res_block("mid_res_0", channels)(features, deterministic=deterministic)
        if self.config.attention:
            features = SpatialAttention(name="mid_attention", **self.dtypes)(features)
        return self._res_block("mid_res_1", channels)(features, deterministic=deterministic)

    def head(
        self, channels: int, features: Float[Array, "b *t h w c"]
    ) -> Float[Array, "b *t h w d"]:
        """Apply the last norm and convolution."""
        return self.conv("conv_out", channels, nn.swish(self.norm("norm_out", features)))

    def time_conv(
        self, name: str, video: Float[Array, "b t h w c"], *, time_stride: int = 1
    ) -> Float[Array, "b gt h w c"]:
        """Apply a convolution over frames alone."""
        conv = CausalConv(
            video.shape[-1], (1, 1), time_stride=time_stride, name=name, **self.dtypes
        )
        return conv(video)

    def is_single_frame(self, features: Float[Array, "b *t h w c"]) -> bool:
        """Whether a model of videos has to do with a picture without an axis of frames."""
        return self.config.num_frames > 1 and features.ndim == 4

    def _res_block(self, name: str, channels: int) -> ResBlock:
        rate = self.config.dropout_rate
        return ResBlock(
            channels=channels, dropout_rate=rate, local=self.local, name=name, **self.dtypes
        )


class Encoder(_Stack, kw_only=True):
    """Images or videos to feature maps of `latent_channels`."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "b *t h w 3"], *, deterministic: bool
    ) -> Float[Array, "b *gt gh gw c"]:
        """Encode images or, of a config with `num_frames`, also videos."""
        self.config.check_frames(images.shape)
        if self.is_single_frame(images):
            return self._encode(images[:, None], deterministic=deterministic)[:, 0]
        return self._encode(images, deterministic=deterministic)

    def _encode(
        self, images: Float[Array, "b *t h w 3"], *, deterministic: bool
    ) -> Float[Array, "b *gt gh gw c"]:
        config = self.config
        features = space_to_depth(images, config.patch_size)
        features = self.conv("conv_in", config.base_channels, features)
        num_levels = len(config.level_channels)
        for index in range(num_levels):
            features = self.level(
                index, config.num_res_blocks, features, deterministic=deterministic
            )
            if index < num_levels - 1:
                name, time_stride = f"level_{index}_downsample", config.time_strides[index]
                features = Downsample(name=name, time_stride=time_stride, **self.dtypes)(features)
        for index in range(config.num_time_layers):
            features = self.time_conv(f"time_downsample_{index}", features, time_stride=2)
        features = self.middle(features, deterministic=deterministic)
        return self.head(config.latent_channels, features)


class Decoder(_Stack, kw_only=True):
    """Feature maps of `latent_channels` to images or videos; the levels mirror the encoder's."""

    @nn.compact
    def __call__(
        self, features: Float[Array, "b *gt gh gw c"], *, deterministic: bool
    ) -> Float[Array, "b *t h w 3"]:
        """Decode feature maps."""
        if self.is_single_frame(features):
            return self._decode(features[:, None], deterministic=deterministic)[:, 0]
        return self._decode(features, deterministic=deterministic)

    def _decode(
        self, features: Float[Array, "b *gt gh gw c"], *, deterministic: bool
    ) -> Float[Array, "b *t h w 3"]:
        config = self.config
        features = self.conv("conv_in", config.level_channels[-1], features)
        features = self.middle(features, deterministic=deterministic)
        for index in reversed(range(config.num_time_layers)):
            features = self.time_conv(f"time_upsample_{index}", repeat_frames(features))
        for index in reversed(range(len(config.level_channels))):
            features = self.level(
                index, config.decoder_res_blocks, features, deterministic=deterministic
            )
            if index > 0:
                name, time_stride = f"level_{index}_upsample", config.time_strides[index - 1]
                features = Upsample(name=name, time_stride=time_stride, **self.dtypes)(features)
        features = self.head(3 * config.patch_size**2, features)
        return depth_to_space(features, config.patch_size)

"""The size of a convolutional tokenizer of images, or of videos and images."""

import math
from dataclasses import dataclass, field

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.quantizers import (
    QuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of an image tokenizer; the defaults are LlamaGen's VQ-16 (Sun et al. 2024, table 1).

    Attributes:
        image_size: pixels a side.
        base_channels: channels at the highest resolution, times that level's multiplier.
        channel_multipliers: one a level; each level but the last halves the resolution.
        num_res_blocks: residual blocks a level in the encoder.
        num_decoder_res_blocks: the same in the decoder; `None` is one more, as published.
        latent_channels: channels between encoder and quantizer projection (`z_channels`).
        middle: two more residual blocks at the lowest resolution, next to the quantizer.
        attention: single-head attention after every block of the lowest level and in the middle.
        patch_size: pixels a side folded into channels before the first convolution and unfolded
            after the last; 1 as published. 4 or 8 makes small models many times faster on a CPU.
        local_encoder: encode each patch by itself, whatever lies around it: then known tokens say
            nothing of what is hidden beside them, and the same patch has the same token anywhere.
            For one level without attention; the decoder sees all tokens.
        dropout_rate: dropout in residual blocks.
        quantizer: the quantizer and its settings.
        num_frames: frames of the longest video; 1 is an image tokenizer. With more, every video of
            `1 + m * temporal_downsample` frames up to that has tokens, and a picture is a video of
            one frame. Parameters do not depend on the length.
        temporal_downsample: frames in a latent frame, a power of two; the first frame of a video
            always has a latent frame of its own (Yu et al. 2024, section 3.2).
    """

    image_size: int = 256
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    num_decoder_res_blocks: int | None = None
    latent_channels: int = 256
    middle: bool = True
    attention: bool = True
    patch_size: int = 1
    local_encoder: bool = False
    dropout_rate: float = 0.0
    quantizer: QuantizerConfig = field(default_factory=VectorQuantizerConfig)
    num_frames: int = 1
    temporal_downsample: int = 1

    def __post_init__(self) -> None:
        if not self.channel_multipliers or self.patch_size < 1:
            raise UserError(
                "expected one or more channel_multipliers and patch_size >= 1, got "
                f"{self.channel_multipliers} and {self.patch_size}; try (1, 2) and 4"
            )
        if self.image_size < 1 or self.image_size % self.downsample:
            raise UserError(
                f"expected image_size to be a multiple of the downsampling {self.downsample}, got "
                f"{self.image_size}; change image_size, patch_size or channel_multipliers"
            )
        if self.local_encoder and (self.attention or len(self.channel_multipliers) > 1):
            raise UserError(
                "local_encoder: expected attention=False and one of channel_multipliers, got "
                f"{self.attention} and {self.channel_multipliers}; set patch_size to downsample"
            )
        self._check_time()

    def _check_time(self) -> None:
        """Refuse lengths that do not divide to whole latent frames."""
        frames, ratio = self.num_frames, self.temporal_downsample
        if ratio < 1 or ratio.bit_count() != 1:
            raise UserError(
                f"expected temporal_downsample to be a power of two, got {ratio}; try 4"
            )
        if frames < 1 or (frames - 1) % ratio or (frames == 1 and ratio > 1):
            near = 1 + max(round((frames - 1) / ratio), 1) * ratio
            raise UserError(
                "expected num_frames to be 1 more than a multiple of temporal_downsample, got "
                f"{frames} and {ratio}; try {near}, or 1 and 1 for images"
            )

    @property
    def downsample(self) -> int:
        """Pixels a side of one token."""
        return self.patch_size * 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of tokens; the levels of a residual quantizer lie side by side."""
        rows, columns, *levels = self.token_shape
        return rows, columns * math.prod(levels)

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Rows, columns and, of a residual quantizer, levels."""
        side = self.image_size // self.downsample
        is_residual = isinstance(self.quantizer, ResidualQuantizerConfig)
        return (side, side, self.num_levels) if is_residual else (side, side)

    @property
    def num_levels(self) -> int:
        """Tokens a position: 1 but for a residual quantizer."""
        quantizer = self.quantizer
        return quantizer.num_levels if isinstance(quantizer, ResidualQuantizerConfig) else 1

    @property
    def num_latent_frames(self) -> int:
        """Latent frames of the longest video."""
        return 1 + (self.num_frames - 1) // self.temporal_downsample

    @property
    def time_strides(self) -> tuple[int, ...]:
        """Stride over frames of each halving of the resolution, the highest first.

        Time is halved at the last ones, where motion is already features (Yu et al. 2024, section
        3.2).
        """
        total = len(self.channel_multipliers) - 1
        halving = min(self._time_halvings, total)
        return (1,) * (total - halving) + (2,) * halving

    @property
    def num_time_layers(self) -> int:
        """Halvings of time that are left for layers of their own, at the lowest resolution."""
        return self._time_halvings - self.time_strides.count(2)

    @property
    def _time_halvings(self) -> int:
        return self.temporal_downsample.bit_length() - 1

    def check_frames(self, shape: tuple[int, ...]) -> None:
        """Refuse images or videos `[b *t h w c]` that have no whole number of latent frames.

        Raises:
            UserError: as the name says.
        """
        if len(shape) == 4:
            return
        if self.num_frames == 1:
            raise UserError(
                f"expected images [b h w c], got shape {shape}; set num_frames to encode videos"
            )
        frames, ratio = shape[1], self.temporal_downsample
        if not 1 <= frames <= self.num_frames or (frames - 1) % ratio:
            raise UserError(
                f"expected videos of 1 + m * {ratio} frames, {self.num_frames} at most, got "
                f"{frames}; cut them, or set num_frames"
            )

    def latent_frames(self, num_tokens: int, frame_tokens: int) -> tuple[int, ...]:
        """Return the axis of latent frames that so many tokens make; none for an image tokenizer.

        Args:
            num_tokens: of a picture or video.
            frame_tokens: of one frame.

        Raises:
            UserError: they make no whole number of latent frames, or too many.
        """
        frames, rest = divmod(num_tokens, frame_tokens)
        if rest or not 1 <= frames <= self.num_latent_frames:
            raise UserError(
                f"expected the tokens of 1 to {self.num_latent_frames} frames of {frame_tokens} "
                f"tokens, got {num_tokens} tokens; cut them, or set grid_shape or num_frames"
            )
        return () if self.num_frames == 1 else (frames,)

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.quantizer.codebook_size

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def decoder_res_blocks(self) -> int:
        """Residual blocks a level in the decoder."""
        if self.num_decoder_res_blocks is None:
            return self.num_res_blocks + 1
        return self.num_decoder_res_blocks

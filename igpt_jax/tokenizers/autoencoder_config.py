"""The size of a convolutional image tokenizer."""

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
        dropout_rate: dropout in residual blocks.
        quantizer: the quantizer and its settings.
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
    dropout_rate: float = 0.0
    quantizer: QuantizerConfig = field(default_factory=VectorQuantizerConfig)

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

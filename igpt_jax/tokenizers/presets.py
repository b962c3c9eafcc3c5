"""The published sizes of convolutional tokenizers, and one for every resolution and grid.

Parameter counts are checked by test.
"""

import dataclasses
from typing import Any

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.autoencoder_config import AutoencoderConfig
from igpt_jax.tokenizers.quantizers import MovingAverageQuantizerConfig, VectorQuantizerConfig

# Downsampling -> multiplier of the channels at each level. 8 and 16 are published (Esser et al.
# 2021, appendix E; Rombach et al. 2022, table 8; Sun et al. 2024, table 1), the others go on alike.
MULTIPLIERS = {
    1: (1,),
    2: (1, 2),
    4: (1, 2, 4),
    8: (1, 2, 2, 4),
    16: (1, 1, 2, 2, 4),
    32: (1, 1, 2, 2, 4, 4),
}

# Image size -> downsampling: 16 x 16 tokens of small pictures, more of large ones.
DOWNSAMPLES = {64: 4, 128: 8, 256: 16, 384: 16, 512: 16}


def llamagen_vq(downsample: int = 16, **overrides: Any) -> AutoencoderConfig:
    """LlamaGen's VQ-8 and VQ-16: 16,384 directions of 8 dimensions (Sun et al. 2024, table 1)."""
    _check(downsample, (8, 16), "LlamaGen's downsampling")
    published = AutoencoderConfig(channel_multipliers=MULTIPLIERS[downsample])
    return dataclasses.replace(published, **overrides)


def taming_vqgan(
    downsample: int = 16, codebook_size: int = 1_024, **overrides: Any
) -> AutoencoderConfig:
    """The VQGAN of taming-transformers: f16 with 1,024 or 16,384 codes of 256 dimensions.

    f8 is the one of latent diffusion: 256 or 16,384 codes of 4 dimensions (Rombach et al. 2022).
    """
    _check(downsample, (8, 16), "VQGAN's downsampling")
    code_dim = 256 if downsample == 16 else 4
    published = AutoencoderConfig(
        channel_multipliers=MULTIPLIERS[downsample],
        latent_channels=code_dim,
        quantizer=VectorQuantizerConfig(codebook_size, code_dim, l2_normalize=False),
    )
    return dataclasses.replace(published, **overrides)


def vqgan(
    image_size: int = 256, downsample: int | None = None, **overrides: Any
) -> AutoencoderConfig:
    """A tokenizer of LlamaGen's make for any resolution.

    Args:
        image_size: pixels a side.
        downsample: pixels a side of one token, 1 to 32; `None` chooses it for 64, 128, 256, 384
            and 512 pixels.
        overrides: any other field.

    Raises:
        UserError: no such downsampling, or it does not divide the image.
    """
    if downsample is None:
        _check(image_size, tuple(DOWNSAMPLES), "image_size without downsample")
        downsample = DOWNSAMPLES[image_size]
    _check(downsample, tuple(MULTIPLIERS), "downsample")
    config = AutoencoderConfig(image_size=image_size, channel_multipliers=MULTIPLIERS[downsample])
    return dataclasses.replace(config, **overrides)


def patch_vq(
    image_size: int,
    patch_size: int,
    *,
    channels: int = 64,
    codebook_size: int = 512,
    code_dim: int = 8,
) -> AutoencoderConfig:
    """A tokenizer that a laptop's CPU trains in minutes: moving averages of patches.

    Each patch is encoded by itself, so that a GPT finds the same token wherever it looks the same.

    Args:
        image_size: pixels a side.
        patch_size: pixels a side of one token.
        channels: of every layer.
        codebook_size: codes.
        code_dim: channels of a code.
    """
    return AutoencoderConfig(
        image_size=image_size,
        patch_size=patch_size,
        base_channels=channels,
        channel_multipliers=(1,),
        num_res_blocks=1,
        num_decoder_res_blocks=2,
        latent_channels=channels,
        attention=False,
        middle=False,
        local_encoder=True,
        quantizer=MovingAverageQuantizerConfig(codebook_size, code_dim),
    )


def _check(value: int, known: tuple[int, ...], name: str) -> None:
    if value not in known:
        raise UserError(f"{name}: expected one of {', '.join(map(str, known))}, got {value}")

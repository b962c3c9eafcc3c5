"""The published sizes, checked against their published parameter counts by test."""

import dataclasses
from typing import Any, Literal

from igpt_jax.errors import UserError
from igpt_jax.models.gpt import GPTConfig

# (layers, heads, channels): iGPT, Chen et al. 2020, section 3.3, and its released code.
IMAGEGPT_SIZES = {"S": (24, 8, 512), "M": (36, 8, 1024), "L": (48, 16, 1536)}

# (layers, heads, channels): LlamaGen, Sun et al. 2024, table 1.
LLAMAGEN_SIZES = {
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "3B": (24, 32, 3200),
}


def imagegpt(size: Literal["S", "M", "L"], **overrides: Any) -> GPTConfig:
    """OpenAI's iGPT: 32 x 32 pixels of 512 colours, learned positions, unconditional."""
    num_layers, num_heads, embed_dim = _look_up(IMAGEGPT_SIZES, size, "iGPT")
    published = GPTConfig(
        vocab_size=512,
        grid_shape=(32, 32),
        num_layers=num_layers,
        num_heads=num_heads,
        embed_dim=embed_dim,
        activation="sigmoid_gelu",
        positions="learned",
    )
    return dataclasses.replace(published, **overrides)


def llamagen(size: Literal["B", "L", "XL", "XXL", "3B"], **overrides: Any) -> GPTConfig:
    """LlamaGen, class-conditional: 16 x 16 tokens of 16,384 codes, 1,000 classes."""
    num_layers, num_heads, embed_dim = _look_up(LLAMAGEN_SIZES, size, "LlamaGen")
    published = GPTConfig(
        vocab_size=16_384,
        grid_shape=(16, 16),
        num_layers=num_layers,
        num_heads=num_heads,
        embed_dim=embed_dim,
        num_classes=1_000,
        embed_dropout=0.1,
        residual_dropout=0.1,
    )
    return dataclasses.replace(published, **overrides)


def _look_up(
    sizes: dict[str, tuple[int, int, int]], size: str, family: str
) -> tuple[int, int, int]:
    if size not in sizes:
        raise UserError(f"{family} size: expected one of {', '.join(sizes)}, got {size!r}")
    return sizes[size]

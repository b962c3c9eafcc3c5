"""Quantizers: continuous latents to tokens and back, behind one protocol."""

from igpt_jax.tokenizers.quantizers.base import Quantized, Quantizer
from igpt_jax.tokenizers.quantizers.binary import BinaryQuantizer, BinaryQuantizerConfig
from igpt_jax.tokenizers.quantizers.finite_scalar import (
    FiniteScalarQuantizer,
    FiniteScalarQuantizerConfig,
)
from igpt_jax.tokenizers.quantizers.gumbel import GumbelQuantizer, GumbelQuantizerConfig
from igpt_jax.tokenizers.quantizers.moving_average import (
    MovingAverageQuantizer,
    MovingAverageQuantizerConfig,
)
from igpt_jax.tokenizers.quantizers.residual import ResidualQuantizer, ResidualQuantizerConfig
from igpt_jax.tokenizers.quantizers.vector import VectorQuantizer, VectorQuantizerConfig

__all__ = [
    "BinaryQuantizer",
    "BinaryQuantizerConfig",
    "FiniteScalarQuantizer",
    "FiniteScalarQuantizerConfig",
    "GumbelQuantizer",
    "GumbelQuantizerConfig",
    "MovingAverageQuantizer",
    "MovingAverageQuantizerConfig",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "ResidualQuantizer",
    "ResidualQuantizerConfig",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "build_quantizer",
]

QuantizerConfig = (
    VectorQuantizerConfig
    | MovingAverageQuantizerConfig
    | FiniteScalarQuantizerConfig
    | BinaryQuantizerConfig
    | ResidualQuantizerConfig
    | GumbelQuantizerConfig
)


def build_quantizer(
    config: QuantizerConfig,
) -> (
    VectorQuantizer
    | MovingAverageQuantizer
    | FiniteScalarQuantizer
    | BinaryQuantizer
    | ResidualQuantizer
    | GumbelQuantizer
):
    """Build the module that a quantizer config describes."""
    match config:
        case VectorQuantizerConfig():
            return VectorQuantizer(config)
        case MovingAverageQuantizerConfig():
            return MovingAverageQuantizer(config)
        case FiniteScalarQuantizerConfig():
            return FiniteScalarQuantizer(config)
        case BinaryQuantizerConfig():
            return BinaryQuantizer(config)
        case ResidualQuantizerConfig():
            return ResidualQuantizer(config)
        case GumbelQuantizerConfig():
            return GumbelQuantizer(config)

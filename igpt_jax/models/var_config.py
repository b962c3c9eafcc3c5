"""The size of a VAR, and the published sizes, checked against their parameter counts by test."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from igpt_jax.dtypes import DTypeName
from igpt_jax.errors import UserError
from igpt_jax.scales import SCALES_256, SCALES_512, check_scales, num_tokens

HEAD_DIM = 64  # of the published sizes


@dataclass(frozen=True)
class VARConfig:
    """The shape of a VAR.

    Attributes:
        num_layers: Transformer blocks.
        num_heads: attention heads.
        embed_dim: channels of the residual stream.
        scales: tokens a side of each map, those of the tokenizer.
        vocab_size: codes of the tokenizer.
        code_dim: channels of a code.
        num_classes: classes to condition on; the id after the last one is the null condition.
        shared_ada_ln: one projection of the class for all blocks and a learned offset a block,
            instead of one projection a block; the published model for 512 pixels has it.
        qk_l2_norm: queries and keys of length 1, and a learned temperature a head; the released
            weights have it.
        cond_drop_prob: share of training rows whose class is replaced by null, for guidance.
        dtype: compute dtype; parameters, norms, softmax, logits and losses are float32.
    """

    num_layers: int = 16
    num_heads: int = 16
    embed_dim: int = 1_024
    scales: tuple[int, ...] = SCALES_256
    vocab_size: int = 4_096
    code_dim: int = 32
    num_classes: int = 1_000
    shared_ada_ln: bool = False
    qk_l2_norm: bool = True
    cond_drop_prob: float = 0.1
    dtype: DTypeName = "auto"

    def __post_init__(self) -> None:
        """Refuses shapes that no model has."""
        check_scales(self.scales, "VAR config")
        sizes = ("num_layers", "num_heads", "embed_dim", "vocab_size", "code_dim", "num_classes")
        for name in sizes:
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"VAR config: expected {name} of at least 1, got {value}")
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"VAR config: expected embed_dim to divide by num_heads {self.num_heads}, got "
                f"{self.embed_dim}"
            )
        if not 0 <= self.cond_drop_prob < 1:
            raise UserError(
                f"VAR config: expected cond_drop_prob in [0, 1), got {self.cond_drop_prob}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.embed_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads: all."""
        return self.num_heads

    @property
    def num_slots(self) -> int:
        """Cache slots of a whole picture."""
        return self.seq_len

    @property
    def seq_len(self) -> int:
        """Tokens `l` of one picture."""
        return num_tokens(self.scales)


def var(num_layers: int = 16, **overrides: Any) -> VARConfig:
    """The published sizes (table 1): 16, 20, 24 or 30 layers for 256 pixels, 36 for 512.

    Raises:
        UserError: no such size.
    """
    if num_layers not in (16, 20, 24, 30, 36):
        raise UserError(f"VAR: expected 16, 20, 24, 30 or 36 layers, got {num_layers}")
    is_512 = num_layers == 36
    published = VARConfig(
        num_layers=num_layers,
        num_heads=num_layers,
        embed_dim=HEAD_DIM * num_layers,
        scales=SCALES_512 if is_512 else SCALES_256,
        shared_ada_ln=is_512,
    )
    return dataclasses.replace(published, **overrides)

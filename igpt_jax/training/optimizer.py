"""AdamW with warm-up, cosine decay and clipping, as the field trains GPTs."""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from igpt_jax.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) and its schedule.

    Attributes:
        peak_lr: learning rate after the warm-up.
        warmup_steps: updates of linear warm-up from 0.
        end_lr_ratio: last learning rate as a share of the peak.
        beta1: decay of the first moment.
        beta2: decay of the second moment; 0.95 as iGPT and LlamaGen, for few updates a run.
        weight_decay: on matrices and embeddings, not on norms, biases and start vectors.
        clip_norm: largest global norm of the gradient.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 100
    end_lr_ratio: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that cannot train."""
        if not self.peak_lr > 0:
            raise UserError(f"peak_lr: expected more than 0, got {self.peak_lr}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"betas: expected in [0, 1), got {self.beta1} and {self.beta2}")
        if self.warmup_steps < 0 or self.weight_decay < 0 or self.end_lr_ratio < 0:
            raise UserError(
                "warmup_steps, weight_decay and end_lr_ratio: expected 0 or more, got "
                f"{self.warmup_steps}, {self.weight_decay} and {self.end_lr_ratio}"
            )
        if not self.clip_norm > 0:
            raise UserError(f"clip_norm: expected more than 0, got {self.clip_norm}")


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay over the rest of the run."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.peak_lr,
        warmup_steps=min(config.warmup_steps, max(num_steps - 1, 0)),
        decay_steps=max(num_steps, 1),
        end_value=config.end_lr_ratio * config.peak_lr,
    )


def decay_mask(params: Any) -> Any:
    """True for what weight decay acts on: leaves with two or more axes of their own.

    Parameters of scanned blocks have the layers as an additional first axis.
    """

    def decays(path: tuple, leaf: Any) -> bool:
        scanned = any(getattr(key, "key", None) == "blocks" for key in path)
        return leaf.ndim - scanned >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW on the schedule."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, num_steps),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )

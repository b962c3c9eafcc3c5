"""AdamW or Muon with warm-up, cosine decay and clipping, as the field trains GPTs."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from igpt_jax.errors import UserError
from igpt_jax.running import is_running

_ADAMW_RMS: Final = 0.2  # of an update of AdamW: Muon's gets the same (Liu et al. 2025, 2.2)


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its schedule.

    Attributes:
        peak_lr: learning rate after the warm-up.
        warmup_steps: updates of linear warm-up from 0.
        end_lr_ratio: last learning rate as a share of the peak.
        beta1: decay of the first moment.
        beta2: decay of the second moment; 0.95 as iGPT and LlamaGen, for few updates a run.
        weight_decay: on matrices and embeddings, not on norms, biases and start vectors.
        clip_norm: largest global norm of the gradient.
        name: "adamw" (Loshchilov & Hutter 2019), or "muon" (Jordan 2024), which makes the update of
            each matrix in the blocks of a Transformer orthogonal and leaves everything else to
            AdamW. Its updates are as large as AdamW's (Liu et al. 2025, section 2.2), so that
            learning rate and weight decay mean the same for both.
    """

    peak_lr: float = 3e-4
    warmup_steps: int = 100
    end_lr_ratio: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    name: Literal["adamw", "muon"] = "adamw"

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


MAIN, RUNNING = "main", "running"  # who moves a leaf, beside the players


@dataclass(frozen=True)
class Player:
    """A part of the parameters that is trained for itself.

    Attributes:
        optimizer: its own.
        start: updates before it begins; until then neither its moments nor its schedule move.
    """

    optimizer: OptimizerConfig
    start: int = 0


NO_PLAYERS: Mapping[str, Player] = MappingProxyType({})


def leaf_owners(params: Any, players: Mapping[str, Any] = NO_PLAYERS) -> Any:
    """Says of each leaf who moves it: a player, the main optimizer, or nobody but itself.

    Args:
        params: parameters.
        players: names of the parts (first keys of `params`) with an optimizer of their own.
    """

    def owner(path: tuple, leaf: Any) -> str:
        if is_running(path):
            return RUNNING
        part = getattr(path[0], "key", None)
        return part if part in players else MAIN

    return jax.tree_util.tree_map_with_path(owner, params)


def make_optimizer(
    config: OptimizerConfig, num_steps: int, players: Mapping[str, Player] = NO_PLAYERS
) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimizer on its schedule; for each player its own.

    Running statistics (`igpt_jax/running.py`) take their next value, unclipped.

    Args:
        config: of all parameters that no player has.
        num_steps: length of the schedule.
        players: first key of the parameters -> who trains that part.
    """
    transforms: dict[Hashable, optax.GradientTransformation] = {
        name: optax.conditionally_transform(
            _clipped(player.optimizer, num_steps - player.start), partial(_has_begun, player.start)
        )
        for name, player in players.items()
    }
    transforms |= {MAIN: _clipped(config, num_steps), RUNNING: optax.sgd(1.0)}
    return optax.partition(transforms, lambda params: leaf_owners(params, players))


def _has_begun(start: int, step: Any, **_: Any) -> Any:
    return step >= start


def _clipped(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    optimizer = _OPTIMIZERS[config.name](config, learning_rate(config, num_steps))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )


def _muon(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    orthogonal = muon(
        schedule,
        weight_decay=config.weight_decay,
        consistent_rms=_ADAMW_RMS,
        muon_weight_dimension_numbers=block_matrices,
    )
    optimizers: dict[Hashable, optax.GradientTransformation] = {
        True: orthogonal,
        False: _adamw(config, schedule),
    }
    return optax.partition(optimizers, is_block_matrix)


_OPTIMIZERS: Final = {"adamw": _adamw, "muon": _muon}


def is_block_matrix(params: Any) -> Any:
    """True for the kernels of the scanned blocks."""

    def is_kernel(path: tuple, _: Any) -> bool:
        keys = [getattr(key, "key", None) for key in path]
        return "blocks" in keys and keys[-1] == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def block_matrices(params: Any) -> Any:
    """The axes in and the axes out of each leaf, a kernel of the blocks: (layers, *in, *out).

    Heads and their width are one axis: the output of query, key and value, the input of the
    projection behind attention.
    """

    def axes(path: tuple, leaf: Any) -> MuonDimensionNumbers:
        num_in = leaf.ndim - 2 if path[-2].key == "out" else 1
        return MuonDimensionNumbers(
            tuple(range(1, 1 + num_in)), tuple(range(1 + num_in, leaf.ndim))
        )

    return jax.tree_util.tree_map_with_path(axes, params)


def gradient_norms(gradients: Any, players: Mapping[str, Any] = NO_PLAYERS) -> dict[str, Any]:
    """Global norm of the gradient, and of each player's."""
    owners = jax.tree.leaves(leaf_owners(gradients, players))

    def norm(name: str) -> Any:
        pairs = zip(jax.tree.leaves(gradients), owners, strict=True)
        return optax.tree.norm([leaf for leaf, owner in pairs if owner == name])

    norms = {f"{name}_grad_norm": norm(name) for name in players}
    return {"grad_norm": norm(MAIN), **norms}

"""The mesh of a run: as its config says, or as its models need it."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from igpt_jax.config import RunConfig
from igpt_jax.model_config import build_tokenizer
from igpt_jax.models.gpt import GPT
from igpt_jax.parameters import module_inputs
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.mesh_choice import choose_mesh, choose_sampling_mesh, state_bytes
from igpt_jax.training.sharding import MeshConfig


def mesh_of_run(
    config: RunConfig, num_devices: int, memory: float | None, slices: int = 1
) -> MeshConfig:
    """The sizes of a run's mesh, of which its config may leave some open.

    They are chosen for the larger of the models that it trains; a discriminator is not counted.

    Args:
        config: the run, resolved.
        num_devices: of all processes.
        memory: bytes of one device; None where they are not known.
        slices: of TPUs, see `choose_mesh`.
    """
    stages = _stages(config) if config.mesh.is_open and memory is not None else []
    if not stages:
        return choose_mesh(config.mesh, {}, num_devices, None, num_devices)
    shapes = [_shapes(module) for module, _ in stages]
    rows = [one.global_batch_size // one.accumulation_steps for _, one in stages]
    largest = max(range(len(stages)), key=lambda index: state_bytes(shapes[index], 1, 1))
    return choose_mesh(config.mesh, shapes[largest], num_devices, memory, rows[largest], slices)


def mesh_of_sampler(config: RunConfig, num_devices: int, memory: float) -> MeshConfig:
    """The mesh that a run's model is best drawn on.

    Args:
        config: the run, resolved.
        num_devices: of all processes.
        memory: bytes of one device.
    """
    return choose_sampling_mesh(_shapes(GPT(config.gpt)), num_devices, memory)


def _shapes(module: nn.Module) -> Any:
    return jax.eval_shape(module.init, jax.random.key(0), *module_inputs(module))["params"]


def _stages(config: RunConfig) -> list[tuple[nn.Module, TrainConfig]]:
    """What a run trains, and how."""
    stages: list[tuple[nn.Module, TrainConfig]] = []
    if config.last_stage == "samples":
        stages.append((GPT(config.gpt), config.gpt_training))
    tokenizer = build_tokenizer(config.tokenizer)
    if isinstance(tokenizer, Autoencoder) and config.tokenizer_path is None:
        stages.append((tokenizer, config.tokenizer_training))
    return stages


def with_mesh(config: RunConfig, num_devices: int, memory: float | None) -> RunConfig:
    """A run with the sizes of its mesh."""
    return dataclasses.replace(config, mesh=mesh_of_run(config, num_devices, memory))

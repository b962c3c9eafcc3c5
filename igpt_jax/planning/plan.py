"""`igpt plan`: what a run needs on a slice, and whether it has it."""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

from igpt_jax.config import RunConfig
from igpt_jax.errors import UserError
from igpt_jax.planning.child import compile_apart
from igpt_jax.planning.compiling import Compiled
from igpt_jax.planning.estimate import ASSUMPTIONS, Estimate, estimate, gib, short
from igpt_jax.planning.programs import ProgramName
from igpt_jax.planning.topology import Topology
from igpt_jax.run_mesh import mesh_of_sampler, with_mesh
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.sharding import MeshConfig

logger = logging.getLogger("igpt_jax.planning")

Compile = Callable[[RunConfig, ProgramName, Topology, int], Compiled]


def plan(
    config: RunConfig,
    topology: Topology,
    *,
    stage: ProgramName = "gpt",
    sampler_batch: int | None = None,
    compile_one: Compile = compile_apart,
) -> dict[str, Any]:
    """Compiles a run's train step and its sampler for a slice.

    Args:
        config: the run; neither its data nor its tokenizer's weights have to be there.
        topology: the slice.
        stage: `gpt`, which plans the sampler, too, or `tokenizer`.
        sampler_batch: pictures drawn at once; None for the run's own number, rounded up to the
            mesh; 0 leaves the sampler out. Its mesh is not training's: copies of the parameters,
            over a few chips by `tensor` where one does not hold them.
        compile_one: what compiles.

    Returns:
        The report, ready for JSON.

    Raises:
        UserError: what does not divide or is not installed.
    """
    config = with_mesh(config.resolved(), topology.num_chips, topology.chip.memory_bytes)
    training = training_of(config, stage)
    report: dict[str, Any] = {
        "topology": topology.name,
        "chip": topology.chip.name,
        "chips": topology.num_chips,
        "mesh": _mesh(config.mesh, topology),
        "train": step_report(
            compile_one(config, stage, topology, training.global_batch_size),
            topology, training, tokens=config.gpt.seq_len if stage == "gpt" else 0,
        ),
    }  # fmt: skip
    if stage == "gpt" and sampler_batch != 0:
        mesh = mesh_of_sampler(config, topology.num_chips, topology.chip.memory_bytes)
        config = dataclasses.replace(config, mesh=mesh)
        sizes = _mesh(mesh, topology)
        wanted = config.samples.batch_size if sampler_batch is None else sampler_batch
        batch = sizes["data"] * math.ceil(wanted / sizes["data"])
        logger.info("compiling the sampler for %s, %d pictures", topology.name, batch)
        compiled = compile_one(config, "sampler", topology, batch)
        report["sampler"] = {
            "mesh": sizes, **_sampler_report(compiled, topology, batch, config.gpt.seq_len)
        }  # fmt: skip
    report["fits"] = all(report[name]["fits"] for name in ("train", "sampler") if name in report)
    report["assumptions"] = list(ASSUMPTIONS[topology.chip.platform])
    report["chip_source"] = topology.chip.source
    return report


def training_of(config: RunConfig, stage: ProgramName) -> TrainConfig:
    """How long and in which batches a stage trains."""
    return config.tokenizer_training if stage == "tokenizer" else config.gpt_training


def with_batch(config: RunConfig, stage: ProgramName, batch_size: int) -> RunConfig:
    """The same run with another batch."""
    name = "tokenizer_training" if stage == "tokenizer" else "gpt_training"
    training = dataclasses.replace(getattr(config, name), global_batch_size=batch_size)
    return dataclasses.replace(config, **{name: training})


def _mesh(mesh: MeshConfig, topology: Topology) -> dict[str, int]:
    data = topology.num_chips // (mesh.fsdp * mesh.tensor) if mesh.data == -1 else mesh.data
    if data * mesh.fsdp * mesh.tensor != topology.num_chips:
        raise UserError(
            f"mesh: expected data * fsdp * tensor = {topology.num_chips} chips of {topology.name}, "
            f"got {mesh.data} * {mesh.fsdp} * {mesh.tensor}"
        )
    return {"data": data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}


def step_report(
    compiled: Compiled, topology: Topology, training: TrainConfig, tokens: int
) -> dict[str, Any]:
    """What is told of a train step.

    Args:
        compiled: the step.
        topology: its slice.
        training: for the batch and the number of steps.
        tokens: of one picture; 0 of a tokenizer.
    """
    found = estimate(compiled, topology)
    report = _program_report(compiled, found) | {"global_batch_size": training.global_batch_size}
    if compiled.fits and found.seconds:
        report["estimate"] |= {
            "mfu": short(found.mfu),
            "images_per_second": short(training.global_batch_size / found.seconds),
            "hours_of_run": short(found.seconds * training.num_steps / 3600),
        }
        if tokens:
            rate = training.global_batch_size * tokens / found.seconds
            report["estimate"]["tokens_per_second"] = round(rate)
    return report


def _sampler_report(
    compiled: Compiled, topology: Topology, batch_size: int, tokens: int
) -> dict[str, Any]:
    found = estimate(compiled, topology)
    report = _program_report(compiled, found) | {"batch_size": batch_size}
    if compiled.fits and found.seconds:
        report["estimate"]["tokens_per_second"] = round(batch_size * tokens / found.seconds)
        report["estimate"]["images_per_second"] = short(batch_size / found.seconds)
    return report


def _program_report(compiled: Compiled, found: Estimate) -> dict[str, Any]:
    report: dict[str, Any] = {
        "fits": found.fits,
        "gib_needed": gib(found.needed_bytes),
        "gib_of_device": gib(found.capacity_bytes),
        "gib_by_kind": {kind: gib(size) for kind, size in compiled.kinds.items() if size},
        "gib_by_compiler": {kind: gib(size) for kind, size in compiled.memory.items()},
        "teraflops_of_model": short(compiled.model_flops / 1e12),
        "compile_seconds": short(compiled.seconds),
    }
    if not compiled.fits:
        return report
    return report | {
        "teraflops_a_device": short(compiled.flops / 1e12),
        "teraflops_reported_loops_once": short(compiled.reported_flops / 1e12),
        "gb_of_hbm_traffic": short(compiled.hbm_bytes / 1e9),
        "flops_a_byte": short(found.intensity),
        "collectives": [
            {
                "kind": one.kind,
                "group": one.group_size,
                "count": round(one.count),
                "gb": short(one.num_bytes / 1e9),
                "gb_sent": short(one.bytes_sent / 1e9),
                "mb_of_largest": short(one.largest / 1e6),
                "share_in_background": short(one.in_background),
            }
            for one in compiled.collectives
        ],
        "estimate": {
            "compute_ms": short(1e3 * found.compute_seconds),
            "hbm_ms": short(1e3 * found.hbm_seconds),
            "network_ms": short(1e3 * found.network_seconds),
            "ms": short(1e3 * found.seconds),
        },
    }

"""The best mesh and the largest batch, by compiling a bounded number of candidates."""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from igpt_jax.config import RunConfig
from igpt_jax.planning.child import compile_apart
from igpt_jax.planning.plan import Compile, step_report, training_of, with_batch
from igpt_jax.planning.programs import ProgramName
from igpt_jax.planning.topology import Topology
from igpt_jax.training.sharding import MeshConfig

logger = logging.getLogger("igpt_jax.planning")

MAX_COMPILES: Final = 16
MAX_TENSOR: Final = 8  # beyond it, products are too thin for a chip


@dataclass
class _Search:
    """Compiles candidates, at most so many."""

    config: RunConfig
    topology: Topology
    stage: ProgramName
    compile_one: Compile
    left: int
    tried: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def try_one(self, mesh: MeshConfig, batch_size: int) -> dict[str, Any] | None:
        """The report of a candidate; None where no compile is left."""
        if not self.left:
            return None
        self.left -= 1
        config = dataclasses.replace(with_batch(self.config, self.stage, batch_size), mesh=mesh)
        logger.info(
            "compiling fsdp %d, tensor %d, batch %d (%d more at most)",
            mesh.fsdp, mesh.tensor, batch_size, self.left,
        )  # fmt: skip
        training = training_of(config, self.stage)
        tokens = config.gpt.seq_len if self.stage == "gpt" else 0
        compiled = self.compile_one(config, self.stage, self.topology, batch_size)
        report = step_report(compiled, self.topology, training, tokens)
        found = {
            "fsdp": mesh.fsdp,
            "tensor": mesh.tensor,
            "global_batch_size": batch_size,
            "fits": report["fits"],
            "gib_needed": report["gib_needed"],
            "images_per_second": report.get("estimate", {}).get("images_per_second", 0.0),
            "mfu": report.get("estimate", {}).get("mfu", 0.0),
        }
        self.tried.append(found)
        return found


def sweep(
    config: RunConfig,
    topology: Topology,
    *,
    stage: ProgramName = "gpt",
    max_compiles: int = MAX_COMPILES,
    compile_one: Compile = compile_apart,
) -> dict[str, Any]:
    """The fastest mesh at the run's batch, then the largest batch that fits on it.

    Meshes are powers of two. Where none fits at the run's batch, the largest batch is looked for
    below it on the mesh that needs least.

    Args:
        config: the run.
        topology: the slice.
        stage: `gpt` or `tokenizer`.
        max_compiles: at most; half of them for meshes.
        compile_one: what compiles.
    """
    config = config.resolved()
    search = _Search(config, topology, stage, compile_one, max_compiles)
    training = training_of(config, stage)
    batch, parts = training.global_batch_size, training.accumulation_steps
    for mesh in list(meshes(config, topology, stage, batch // parts))[: max(max_compiles // 2, 1)]:
        search.try_one(mesh, batch)
    fitting = [one for one in search.tried if one["fits"]]
    if fitting:
        best = max(fitting, key=lambda one: one["images_per_second"])
    else:
        best = min(search.tried, key=lambda one: one["gib_needed"], default=None)
    result: dict[str, Any] = {"topology": topology.name, "tried": search.tried}
    if best is None:
        return result | {"fits": False}
    mesh = MeshConfig(-1, best["fsdp"], best["tensor"])
    shares = parts * topology.num_chips // mesh.tensor
    largest = _largest_batch(search, mesh, batch // shares, bool(fitting))
    return result | {
        "fits": largest > 0,
        "mesh": {"fsdp": mesh.fsdp, "tensor": mesh.tensor},
        "largest_global_batch_size": largest * shares,
    }


def _largest_batch(search: _Search, mesh: MeshConfig, unit: int, fits: bool) -> int:
    """The largest batch, in multiples of what the mesh splits; doubled, then halved between."""
    parts = training_of(search.config, search.stage).accumulation_steps
    shares = parts * search.topology.num_chips // mesh.tensor

    def fit(units: int) -> bool | None:
        found = search.try_one(mesh, units * shares)
        return None if found is None else found["fits"]

    low, high = (unit, 2 * unit) if fits else (0, unit)
    while fits:
        found = fit(high)
        if found is None:
            return low
        if not found:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        found = fit(middle)
        if found is None:
            break
        low, high = (middle, high) if found else (low, middle)
    return low


def meshes(
    config: RunConfig, topology: Topology, stage: ProgramName, rows: int
) -> Iterator[MeshConfig]:
    """Meshes of powers of two that split heads and rows evenly; plain ones first.

    Args:
        config: the run.
        topology: the slice.
        stage: tokenizers have no products to split.
        rows: of one part of a batch.
    """
    chips, tensor = topology.num_chips, 1
    while tensor <= MAX_TENSOR and chips % tensor == 0:
        splits = stage == "gpt" and config.gpt.num_heads % tensor == 0
        if (tensor == 1 or splits) and rows % (chips // tensor) == 0:
            fsdp = chips // tensor
            while fsdp >= 1:
                yield MeshConfig(-1, fsdp, tensor)
                if fsdp % 4:
                    break
                fsdp //= 4  # neighbours differ little
        tensor *= 2

"""The best mesh and the largest batch, by compiling a bounded number of candidates."""

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any, Final

from igpt_jax.config import RunConfig
from igpt_jax.errors import UserError
from igpt_jax.planning.child import RefusedError, compile_apart
from igpt_jax.planning.compiling import Compiled
from igpt_jax.planning.plan import Compile, step_report, training_of, with_batch
from igpt_jax.planning.programs import ProgramName
from igpt_jax.planning.topology import Topology
from igpt_jax.run_mesh import with_mesh
from igpt_jax.training.mesh_choice import MAX_TENSOR
from igpt_jax.training.sharding import MeshConfig

logger = logging.getLogger("igpt_jax.planning")

MAX_COMPILES: Final = 16
# By how much (fsdp, tensor) grow: parameters shared by more or fewer, or products.
_NEIGHBOURS: Final = ((2, 1), (1, 2), (0.5, 2), (0.5, 1), (2, 0.5), (1, 0.5))


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
        is_refused = False
        try:
            compiled = self.compile_one(config, self.stage, self.topology, batch_size)
        except RefusedError as error:
            logger.warning("%s", error)
            compiled, is_refused = Compiled({}, {}, 0.0, fits=False), True
        report = step_report(compiled, self.topology, training, tokens)
        found = {
            "fsdp": mesh.fsdp,
            "tensor": mesh.tensor,
            "global_batch_size": batch_size,
            "fits": report["fits"],
            "refused": is_refused,
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

    From the run's mesh it goes to a neighbour, with an axis or two twice or half as large, for as
    long as one is faster; where nothing fits, for as long as one needs less memory.

    Args:
        config: the run.
        topology: the slice.
        stage: `gpt` or `tokenizer`.
        max_compiles: at most, 1 or more; two thirds of them for meshes.
        compile_one: what compiles.

    Raises:
        UserError: no mesh divides, or the compiler is not installed.
    """
    config = config.resolved()
    chips = topology.num_chips
    search = _Search(config, topology, stage, compile_one, max_compiles)
    training = training_of(config, stage)
    batch, parts = training.global_batch_size, training.accumulation_steps
    best = _fastest(
        search, _start(search, batch), batch, until=max_compiles - max(2 * max_compiles // 3, 1)
    )
    mesh = MeshConfig(-1, best["fsdp"], best["tensor"])
    shares = parts * chips // mesh.tensor
    largest = _largest_batch(search, mesh, batch // shares, best["fits"])
    return {
        "topology": topology.name,
        "tried": search.tried,
        "fits": largest > 0,
        "mesh": {"fsdp": mesh.fsdp, "tensor": mesh.tensor},
        "largest_global_batch_size": largest * shares,
    }


def _start(search: _Search, batch: int) -> MeshConfig:
    """The run's mesh, or where it does not divide, the one that a run without one would have.

    Raises:
        UserError: neither divides.
    """
    config, topology = search.config, search.topology
    for mesh in (config.mesh, MeshConfig()):
        chosen = with_mesh(
            dataclasses.replace(config, mesh=mesh), topology.num_chips, topology.chip.memory_bytes
        ).mesh
        start = MeshConfig(-1, chosen.fsdp or 1, chosen.tensor or 1)
        if _is_even(search, start, batch):
            return start
    raise UserError(
        f"global_batch_size: expected one that divides over {topology.num_chips} chips of "
        f"{topology.name}, got {batch}"
    )


def _fastest(search: _Search, start: MeshConfig, batch: int, until: int) -> dict[str, Any]:
    """The report of the mesh that no neighbour beats, or the best when compiles are used up.

    Args:
        search: what compiles.
        start: a mesh that the batch divides by.
        batch: pictures of a step.
        until: compiles to leave.
    """
    best, seen, directions = search.try_one(start, batch), {start}, list(_NEIGHBOURS)
    assert best is not None
    while True:
        for direction in directions:
            mesh = _neighbour(best, direction)
            if mesh in seen or not _is_even(search, mesh, batch):
                continue
            if search.left <= until:
                return best
            seen.add(mesh)
            found = search.try_one(mesh, batch)
            if found is not None and _merit(found) > _merit(best):
                best = found
                directions.remove(direction)
                directions.insert(0, direction)  # it may lead further
                break
        else:
            return best


def _merit(found: dict[str, Any]) -> tuple[bool, float]:
    """What is better comes later: what fits and is fast, then what needs little."""
    if found["fits"]:
        return True, found["images_per_second"]
    return False, -(found["gib_needed"] or math.inf)  # 0 of a compiler that broke


def _neighbour(found: dict[str, Any], direction: tuple[float, float]) -> MeshConfig:
    fsdp, tensor = (
        size * factor
        for size, factor in zip((found["fsdp"], found["tensor"]), direction, strict=True)
    )
    return MeshConfig(-1, math.floor(fsdp), math.floor(tensor))


def _is_even(search: _Search, mesh: MeshConfig, batch: int) -> bool:
    """Whether chips, heads and rows divide by a mesh; tokenizers have no products to split."""
    chips, tensor = search.topology.num_chips, mesh.tensor
    if mesh.fsdp < 1 or not 1 <= tensor <= MAX_TENSOR or chips % (mesh.fsdp * tensor):
        return False
    rows = batch // training_of(search.config, search.stage).accumulation_steps
    splits = search.stage == "gpt" and search.config.gpt.num_heads % tensor == 0
    return (tensor == 1 or splits) and rows % (chips // tensor) == 0


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

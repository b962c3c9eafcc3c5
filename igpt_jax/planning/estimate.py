"""From what is compiled to seconds: a roofline with its assumptions said aloud."""

from dataclasses import dataclass

from igpt_jax.planning.compiling import Compiled
from igpt_jax.planning.topology import GIB, GPUS_A_HOST, Topology

# Of the published HBM, what the TPU runtime keeps for itself is told by the compiler alone.
ASSUMPTIONS = {
    "tpu": (
        "each instruction takes the longer of its products at the published bfloat16 peak and its "
        "HBM traffic at the published bandwidth; copies that the compiler started in the "
        "background hide behind computing, as far as the bandwidth goes",
        "collectives run over as few axes of the torus as hold their groups, as rings both ways "
        "where the ends of an axis are joined, else as lines, which take twice as long; "
        "those that the compiler started in the background hide behind computing, others do not",
        "nothing waits for data, no kernel falls short of its peak: a real step takes longer",
    ),
    "gpu": (
        "no GPU compiler is asked: the program is compiled for as many simulated CPU devices, "
        "whose bytes of parameters, averages, optimizer and batch are the GPU's, too; temporaries "
        "and the kinds of collectives are the CPU's own, and some are in float32 that are bfloat16",
        "products run at the published bfloat16 peak, with what is recomputed; HBM is not counted",
        f"collectives of groups up to {GPUS_A_HOST} run over NVLink, larger ones over InfiniBand "
        "of 400 Gb/s a GPU; none hides behind computing",
        "nothing waits for data, no kernel falls short of its peak: a real step takes longer",
    ),
}


@dataclass(frozen=True)
class Estimate:
    """What a program is expected to take on a slice.

    Attributes:
        compute_seconds: of its products at the peak.
        hbm_seconds: of its HBM traffic at the published bandwidth; 0 where it is not known.
        network_seconds: of all that is communicated.
        seconds: of the whole program.
        mfu: share of the peak that the model's own operations use (Chowdhery et al. 2022).
        intensity: operations a byte of HBM traffic; 0 where that is not known.
        needed_bytes: of device memory; 0 where it is not known.
        capacity_bytes: of device memory.
        fits: whether it does.
    """

    compute_seconds: float
    hbm_seconds: float
    network_seconds: float
    seconds: float
    mfu: float
    intensity: float
    needed_bytes: int
    capacity_bytes: int
    fits: bool


def estimate(compiled: Compiled, topology: Topology) -> Estimate:
    """Times and memory of a compiled program on its chips.

    Args:
        compiled: what the compiler said.
        topology: its chips.
    """
    chip, is_own = topology.chip, compiled.is_own
    sent = [
        (one, one.bytes_sent / topology.bandwidth(one.group_size)) for one in compiled.collectives
    ]
    network = sum(seconds for _, seconds in sent)
    exposed = sum(seconds * (1 - one.in_background * is_own) for one, seconds in sent)
    compute = compiled.flops / chip.peak_flops
    hbm = compiled.hbm_bytes / chip.memory_bandwidth if is_own else 0.0
    busy = compiled.busy_seconds if is_own else compute
    seconds = max(busy + exposed, network, hbm)
    needed = compiled.memory.get("total", 0)
    if not is_own:  # a CPU's temporaries say nothing of a GPU's
        needed = sum(compiled.kinds.values())
    capacity = int(chip.memory_bytes) if compiled.capacity is None else compiled.capacity
    peak = chip.peak_flops * topology.num_chips
    return Estimate(
        compute_seconds=compute,
        hbm_seconds=hbm,
        network_seconds=network,
        seconds=seconds,
        mfu=compiled.model_flops / (peak * seconds) if seconds else 0.0,
        intensity=compiled.flops / compiled.hbm_bytes if is_own and compiled.hbm_bytes else 0.0,
        needed_bytes=needed,
        capacity_bytes=capacity,
        fits=compiled.fits and needed <= capacity,
    )


def short(value: float) -> float:
    """A number to four digits."""
    return float(f"{value:.4g}")


def gib(num_bytes: float) -> float:
    """Bytes in GiB."""
    return short(num_bytes / GIB)

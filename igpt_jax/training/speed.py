"""How fast training is, against what the machine could do; and where its time goes."""

from pathlib import Path
from typing import Any

import jax

# `device_kind` begins with -> dense bfloat16 operations a second. TPUs: the system architecture
# pages of Google Cloud; GPUs: NVIDIA's data sheets, without sparsity. The first match counts.
PEAK_FLOPS = (
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),  # v5e
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),  # v5p
    ("TPU v6", 918e12),  # v6e
    ("NVIDIA A100", 312e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA B200", 2_250e12),
)
WARM_UP_STEPS = 3  # compiled and laid out before a trace begins


def peak_flops(device_kind: str) -> float | None:
    """Most dense bfloat16 operations a second of a device; None of one that the table lacks."""
    peaks = (peak for kind, peak in PEAK_FLOPS if device_kind.startswith(kind))
    return next(peaks, None)


def work_done(images_per_second: float, tokens: int, flops: float) -> dict[str, float]:
    """Tokens a second, and the share of the devices' peak that the model's arithmetic takes.

    The share is model FLOPs utilisation (Chowdhery et al. 2022, section 4.1): operations that the
    model needs, not those that remat adds, against bfloat16 peaks.

    Args:
        images_per_second: over all devices.
        tokens: of one example; 0 of what has none.
        flops: operations of one example in a step; 0 if not counted.

    Returns:
        `tokens_per_second` and `mfu`, each where it is known.
    """
    done = {}
    if tokens:
        done["tokens_per_second"] = images_per_second * tokens
    peak = peak_flops(jax.devices()[0].device_kind)
    if flops and peak is not None:
        done["mfu"] = images_per_second * flops / (peak * jax.device_count())
    return done


class Profile:
    """An XProf trace of a few steps after warm-up; to look at with `xprof` or in Perfetto."""

    def __init__(self, directory: Path, start: int, num_steps: int) -> None:
        """Prepares; `num_steps` 0 for no trace, `start` is the number of updates before."""
        self._directory, self._is_open = directory, False
        first = start + WARM_UP_STEPS
        self._steps = (first, first + num_steps) if num_steps else (-1, -1)

    def after(self, step: int, done: Any) -> None:
        """Begins the trace after the last step of warm-up, and ends it after its own last one.

        Args:
            step: number of updates.
            done: of which arrays that come with the step's end.
        """
        if step not in self._steps:
            return
        jax.block_until_ready(done)  # steps run behind the loop that starts them
        if step == self._steps[0]:
            jax.profiler.start_trace(str(self._directory))
            self._is_open = True
        else:
            self.close()

    def close(self) -> None:
        """Ends a trace that the run was too short for."""
        if self._is_open:
            jax.profiler.stop_trace()
            self._is_open = False

"""Where numbers go: JSON lines always, TensorBoard beside them, Weights & Biases if asked for."""

import importlib.util
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from igpt_jax.errors import UserError
from igpt_jax.processes import is_first


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and TensorBoard event files of one directory.

    Of several processes only the first writes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        resume_step: int = 0,
        wandb_project: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the files; rows after `resume_step` are of updates that were lost, and go."""
        self.directory = directory
        self._writes = is_first()
        if not self._writes:
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._wandb = _open_wandb(wandb_project, directory, config)
        path = directory / "metrics.jsonl"
        _truncate(path, resume_step)
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(
            str(directory / "tensorboard"), purge_step=resume_step + 1
        )

    def __enter__(self) -> "MetricWriter":
        """Opens."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes all files."""
        if not self._writes:
            return
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes one row; it is on disk when this returns."""
        if not self._writes:
            return
        row = {"step": step, "split": split, "time": round(time.time(), 3), **metrics}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{split}/{k}": v for k, v in metrics.items()}, step=step)


def read_metrics(directory: Path, split: str) -> list[dict[str, Any]]:
    """The rows of one split, in order of step, without one that is being written or copied."""
    *lines, _ = (directory / "metrics.jsonl").read_text().split("\n")
    return [row for row in map(json.loads, lines) if row["split"] == split]


def _truncate(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the line that was being written when the process died
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _open_wandb(project: str | None, directory: Path, config: Mapping[str, Any] | None) -> Any:
    if project is None:
        return None
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "wandb_project: the package wandb is not installed; pip install 'igpt_jax[wandb]' or "
            "leave wandb_project unset"
        )
    import wandb  # pyrefly: ignore[missing-import]

    return wandb.init(project=project, dir=str(directory), config=dict(config or {}))

"""A toy that one or several processes train, as tests and benchmarks start it.

    python tests/training/several.py WORKDIR --num-steps 12 [--coordinator HOST:PORT ...]

A regression in eight dimensions, whose dropout depends on the place of a row in its batch. Each row
of metrics tells which of the 48 pictures its batch had: six batches are an epoch.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
NUM_PICTURES, BATCH, GROUP = 48, 8, 16
STEPS_AN_EPOCH = NUM_PICTURES // BATCH
BROKEN = 7  # a picture that cannot be read
THREADS = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",  # or the pipes fill that nobody reads yet
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def environment() -> dict[str, str]:
    """Of processes with one device and one thread each."""
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **THREADS}


def in_slurm(count: int) -> list[dict[str, str]]:
    """What Slurm tells each task of a step on this machine.

    JAX makes the port of a job's number (`jax.distributed`'s cluster of Slurm): the last three
    digits in base 16, of the highest 4096.
    """
    job = 0
    while job < 4096:
        job += 1
        with contextlib.suppress(OSError), socket.create_server(("", 61_440 + job % 4096)):
            break
    return [
        {
            "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": str(count), "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
        }
        for index in range(count)
    ]  # fmt: skip


def start_each(command: list[str], told: list[dict[str, str]]) -> list[subprocess.Popen]:
    """Starts a command as each of several processes, which their environment tells who they are."""
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={**environment(), **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variables in told
    ]


def start(command: list[str], count: int) -> list[subprocess.Popen]:
    """Starts a command as each of so many processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    several = ["--coordinator", f"localhost:{port}", "--num-processes", str(count), "--process-id"]
    return [
        subprocess.Popen(
            [
                sys.executable,
                *command,
                *([*several, str(index)] if count > 1 else []),
            ],
            cwd=REPOSITORY,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def ends(processes: list[subprocess.Popen], timeout: float) -> list[tuple[int, str]]:
    """Exit code of each process and what it wrote to stderr; kills those that hang."""
    until, found = time.monotonic() + timeout, []
    for process in processes:
        try:
            _, errors = process.communicate(timeout=max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            errors += "\nHUNG"
        found.append((process.returncode, errors))
    return found


def toy(workdir: Path, num_steps: int = 12, pause: float = 0.0, **settings: object) -> list[str]:
    """The command of this file."""
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [
        __file__, str(workdir), f"--num-steps={num_steps}", f"--pause={pause}", *options
    ]  # fmt: skip


def pictures(row: dict[str, float]) -> list[int]:
    """Which pictures the batch of a row of metrics had."""
    masks = [int(row[f"pictures_{group}"]) for group in range(NUM_PICTURES // GROUP)]
    return [
        group * GROUP + bit
        for group, mask in enumerate(masks)
        for bit in range(GROUP)
        if mask >> bit & 1
    ]


class Numbered:
    """Rows of numbers, and which they are; one may be broken."""

    def __init__(self, broken: int | None) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return NUM_PICTURES

    def __getitem__(self, index):
        import numpy as np

        from igpt_jax.data.images import BrokenImageError

        if index == self.broken:
            raise BrokenImageError(f"picture-{index}: cut")
        rng = np.random.default_rng(int(index))
        return {"x": rng.standard_normal(8, np.float32), "label": int(index)}


def train_toy(workdir: Path, num_steps: int, pause: float, tensor: int, broken: int | None) -> None:
    """Trains to the last step, or goes on."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np

    from igpt_jax.data.pipeline import make_dataset
    from igpt_jax.training.loop import Task, TrainConfig, train
    from igpt_jax.training.sharding import MeshConfig, make_mesh

    def init(key):
        kernel = jax.random.normal(key, (8, 4)) / 3
        return {
            "kernel": nn.LogicallyPartitioned(kernel, names=("embed", "mlp")),
            "last": jnp.ones(4),
        }

    def loss(params, batch, key):
        x, label = batch["x"], batch["label"]
        if key is not None:
            x = x * jax.random.bernoulli(key, 0.8, x.shape)
        error = jnp.tanh(x @ params["kernel"]) @ params["last"] - jnp.sin(label)
        had = (label[:, None] == jnp.arange(NUM_PICTURES)).any(axis=0)
        masks = {
            f"pictures_{group}": jnp.sum(had[group * GROUP :][:GROUP] * 2.0 ** jnp.arange(GROUP))
            for group in range(NUM_PICTURES // GROUP)
        }
        return jnp.mean(error**2), masks

    def prepare(params, batches, key):
        return {**params, "last": params["last"] * np.abs(next(batches)["x"]).mean()}

    def show(params, batch, step):
        total = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(params))
        (workdir / f"sum-{step}.txt").write_text(f"{total:.5f} {len(batch['x'])}")

    def read(item, rng):
        time.sleep(pause / BATCH)
        return item

    options = {"global_batch_size": BATCH, "seed": 0, "shuffle": True, "prefetch": 0}
    source = Numbered(broken)
    train(
        Task("toy", init, loss, prepare, show),
        TrainConfig(
            num_steps=num_steps, global_batch_size=BATCH, log_every=1, eval_every=6, eval_batches=2,
            picture_every=6, checkpoint_every=5,
        ),
        train_data=make_dataset(
            source, transform=read, num_epochs=None, max_broken_share=0.2, **options
        ),
        validation_data=make_dataset(Numbered(None), num_epochs=1, drop_remainder=True, **options),
        directory=workdir,
        mesh=make_mesh(MeshConfig(tensor=tensor)),
        seed=0,
        metadata={"config": "toy"},
    )  # fmt: skip


def main(argv: list[str]) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--num-steps", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--broken", type=int)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    args = parser.parse_args(argv)
    from igpt_jax.processes import ending_together, join

    join(args.coordinator, args.num_processes, args.process_id)
    with ending_together():
        train_toy(args.workdir, args.num_steps, args.pause, args.tensor, args.broken)
    return {}


if __name__ == "__main__":
    from igpt_jax.cli import run_command

    sys.exit(run_command(main))

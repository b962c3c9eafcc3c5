r"""How much of a GPU's arithmetic LlamaGen's training uses, against what its matrix products reach.

    python benchmarks/training_mfu.py --sizes L XL --batch-size 64 --profile runs/profile
    python benchmarks/training_mfu.py --tiny  # shows on a CPU that it works; its numbers are none

Prints one line of JSON for the machine and one for each size and attention kernel: `mfu` is the
model's operations a second (`igpt_jax/models/flops.py`) over those of large bfloat16 products of
matrices measured here, `mfu_published` over the maker's number; `predicted_ms` is what `igpt plan`
makes of the program's text with the matrix peak that was measured and the published bandwidth, to
be held against `step_ms`. With `--profile`, an XProf trace of a few steps of each.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.losses import token_nll
from igpt_jax.models.flops import training_flops
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.presets import llamagen
from igpt_jax.parameters import generator_inputs
from igpt_jax.planning.compiling import read_compiled
from igpt_jax.planning.estimate import estimate
from igpt_jax.planning.topology import CHIPS, Topology, chip_of
from igpt_jax.training.optimizer import OptimizerConfig, make_optimizer
from igpt_jax.training.sharding import MeshConfig, make_mesh, replicated, shard_batch
from igpt_jax.training.speed import peak_flops
from igpt_jax.training.state import init_state, state_shardings
from igpt_jax.training.steps import make_train_step

WARM_UP = 3
TRACED = 3
PRODUCTS = 16  # one after another in a program, so that its start costs nothing
TINY = GPTConfig(
    vocab_size=64, grid_shape=(4, 4), num_layers=2, num_heads=2, embed_dim=32, num_classes=10,
    mlp_dim=64,
)  # fmt: skip


def matrix_peak(size: int, repeats: int) -> float:
    """Operations a second of bfloat16 products of square matrices, the best of some runs."""

    @jax.jit
    def chain(left, right):
        product = lambda _, x: jnp.matmul(x, right)  # noqa: E731
        return jax.lax.fori_loop(0, PRODUCTS, product, left)

    shape = (size, size)
    left, right = (
        jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) / size**0.5 for i in range(2)
    )
    chain(left, right).block_until_ready()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        chain(left, right).block_until_ready()
        times.append(time.perf_counter() - started)
    return PRODUCTS * 2 * size**3 / min(times)


def loss(gpt, params, batch, key):
    """Next-token prediction, as `gpt_task` has it for classes."""
    logits = gpt.apply(
        {"params": params}, batch["tokens"][:, :-1], batch["label"],
        deterministic=False, rngs={"dropout": key},
    )  # fmt: skip
    return token_nll(logits, batch["tokens"]).mean(), {}


def seconds_a_step(
    config: GPTConfig, batch_size: int, num_steps: int, profile: Path | None, peak: float
) -> tuple[float, float, int]:
    """A train step with AdamW and averaging: its median time, a plan's, and the bytes it needs.

    The plan's is that of devices which compute `peak` operations a second.
    """
    gpt, mesh = GPT(config), make_mesh(MeshConfig())
    optimizer = make_optimizer(OptimizerConfig(), 1_000)

    def init(key):
        return gpt.init(key, *generator_inputs(gpt))["params"]

    random = np.random.default_rng(0)
    rows = {
        "tokens": random.integers(0, config.vocab_size, (batch_size, config.seq_len)),
        "label": random.integers(0, config.num_classes, batch_size),
    }
    with jax.set_mesh(mesh):
        shardings = state_shardings(init, optimizer, mesh)
        create = jax.jit(lambda key: init_state(init, optimizer, key), out_shardings=shardings)
        state = create(jax.random.key(0))
        step = jax.jit(
            make_train_step(functools.partial(loss, gpt), optimizer, ema_decay=0.999),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
        )
        batch = shard_batch({name: x.astype(np.int32) for name, x in rows.items()}, mesh)
        compiled = step.lower(state, batch, jax.random.key(1)).compile()
        memory = compiled.memory_analysis()
        times = []
        for index in range(WARM_UP + num_steps):
            if profile is not None and index == WARM_UP:
                jax.profiler.start_trace(str(profile))
            started = time.perf_counter()
            state, metrics = compiled(state, batch, jax.random.key(1))
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - started)
            if profile is not None and index == WARM_UP + min(TRACED, num_steps) - 1:
                jax.profiler.stop_trace()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    chip = chip_of(jax.devices()[0].device_kind) or CHIPS["h100"]  # --tiny: numbers of no machine
    shape = (jax.device_count(),)
    topology = Topology(chip.name, dataclasses.replace(chip, peak_flops=peak), shape)
    predicted = estimate(read_compiled(compiled, topology, {}, 0.0), topology).seconds
    return float(np.median(times[WARM_UP:])), predicted, needed


def main() -> None:
    """Measures the machine, then the models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["L", "XL"])
    parser.add_argument("--kernels", nargs="+", default=["cudnn", "xla"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--tiny", action="store_true", help="toy shapes, for any machine")
    asked = parser.parse_args()
    if jax.default_backend() == "cpu" and not asked.tiny:
        sys.exit(
            "training_mfu: expected a GPU or TPU, found only CPUs, of which nothing is measured; "
            "run it there, or with --tiny to see that it works"
        )
    if asked.tiny:
        models, batch_size = {"tiny": TINY}, 2
    else:
        models, batch_size = {size: llamagen(size) for size in asked.sizes}, asked.batch_size
    device, count = jax.devices()[0].device_kind, jax.device_count()
    reached = matrix_peak(256 if asked.tiny else 8_192, 3 if asked.tiny else 10) * count
    published = (peak_flops(device) or 0) * count
    machine = {
        "device": device, "count": count, "jax": jax.__version__,
        "matrix_tflops": reached / 1e12, "published_tflops": published / 1e12 or None,
    }  # fmt: skip
    print(json.dumps(machine), flush=True)
    for size, shape in models.items():
        for kernel in asked.kernels:
            changes = {"dtype": "bfloat16", "remat": asked.remat, "attention_kernel": kernel}
            config = GPTConfig(**vars(shape) | changes)
            profile = asked.profile and asked.profile / f"{size}-{kernel}"
            seconds, predicted, num_bytes = seconds_a_step(
                config, batch_size, asked.steps, profile, reached / count
            )
            flops = training_flops(config) * batch_size / seconds
            row = {
                "model": size, "kernel": kernel, "remat": asked.remat, "batch_size": batch_size,
                "step_ms": seconds * 1e3,
                "predicted_ms": predicted * 1e3,
                "tokens_per_second": batch_size * config.seq_len / seconds,
                "tflops": flops / 1e12, "mfu": flops / reached,
                "mfu_published": flops / published if published else None,
                "gigabytes_a_device": num_bytes / 1e9,
            }  # fmt: skip
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

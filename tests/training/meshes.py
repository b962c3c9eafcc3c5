"""Trains tiny models on meshes of eight simulated devices; writes what happened to a JSON file."""

import dataclasses
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (  # what is sent is decided before: only LLVM works less
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from igpt_jax.gpt_task import gpt_task
from igpt_jax.model import Model
from igpt_jax.model_config import ModelConfig
from igpt_jax.models.attention import attend
from igpt_jax.models.gpt import GPT
from igpt_jax.models.kernels import splash_attention
from igpt_jax.testing import tiny_config
from igpt_jax.tokenizer_task import tokenizer_task
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.tokenizers.perceptual import laplacian_pyramid_loss
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig
from igpt_jax.training.checkpoint import Checkpoints
from igpt_jax.training.optimizer import OptimizerConfig, make_optimizer
from igpt_jax.training.sharding import MeshConfig, make_mesh, replicated, shard_batch
from igpt_jax.training.state import init_state, state_shardings
from igpt_jax.training.steps import make_train_step

NUM_STEPS, BATCH_SIZE = 20, 16
ONE = (1, 1, 1)
MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (2, 2, 2), (1, 4, 2), (2, 1, 4))
GPT_SIZE = {"num_layers": 8, "num_heads": 8, "embed_dim": 64, "mlp_dim": 128, "vocab_size": 512}
RESTORED = {"1": ONE, "2": (1, 2, 1), "4": (1, 4, 1), "4 tensor 2": (1, 2, 2), "8": (2, 2, 2)}

TINY = tiny_config()
CONFIG = dataclasses.replace(
    TINY,
    tokenizer=dataclasses.replace(TINY.tokenizer, quantizer=VectorQuantizerConfig(512, 8)),
    gpt=dataclasses.replace(TINY.gpt, grid_shape=(4, 4), dtype="float32", **GPT_SIZE),
    adversary=AdversaryConfig(
        PatchDiscriminatorConfig(base_channels=8, num_layers=1), start_step=0, lead_steps=0
    ),
)
OPTIMIZER = OptimizerConfig(peak_lr=1e-3, warmup_steps=2)
# Small steps: else the rounding of sums decides near ties between codes within the twenty.
SLOW = OptimizerConfig(peak_lr=1e-4, warmup_steps=2)


def make_gpt_task():
    tokenizer = Autoencoder(CONFIG.tokenizer)
    model = Model(ModelConfig(CONFIG.tokenizer, CONFIG.gpt), tokenizer, {}, GPT(CONFIG.gpt))
    return gpt_task(CONFIG, model, Path())


def make_vqgan_task():
    distance = Partial(laplacian_pyramid_loss)
    return tokenizer_task(CONFIG, Autoencoder(CONFIG.tokenizer), Path(), distance)


def batch_of(step):
    rng = np.random.default_rng(step)
    return {
        "tokens": rng.integers(0, 512, (BATCH_SIZE, 16)).astype(np.int32),
        "label": rng.integers(0, 101, BATCH_SIZE).astype(np.int32),
        "image": rng.integers(0, 256, (BATCH_SIZE, 32, 32, 3)).astype(np.uint8),
    }


class Trained:
    """A task on a mesh, some steps on."""

    def __init__(self, task, shape, *, optimizer=OPTIMIZER, accumulation_steps=1):
        self.task, self.mesh = task, mesh_of(shape)
        self.optimizer = make_optimizer(optimizer, NUM_STEPS, task.players)
        with jax.set_mesh(self.mesh):
            self.shardings = state_shardings(task.init, self.optimizer, self.mesh, task.averaged)
            self.create = jax.jit(self.start, out_shardings=self.shardings)
            self.created = self.create.lower(jax.random.key(0)).compile()
            self.state = self.created(jax.random.key(0))
            step = make_train_step(
                task.loss,
                self.optimizer,
                ema_decay=0.99,
                accumulation_steps=accumulation_steps,
                averaged=task.averaged,
                summarize=task.summarize,
                players=task.players,
            )
            jitted = jax.jit(
                step, out_shardings=(self.shardings, replicated(self.mesh)), donate_argnums=0
            )
            batch = shard_batch(batch_of(0), self.mesh)
            self.step = jitted.lower(self.state, batch, jax.random.key(1)).compile()

    def start(self, key):
        return init_state(self.task.init, self.optimizer, key, self.task.averaged)

    def run(self, num_steps=NUM_STEPS):
        rows = []
        with jax.set_mesh(self.mesh):
            for index in range(num_steps):
                batch = shard_batch(batch_of(index), self.mesh)
                self.state, metrics = self.step(self.state, batch, jax.random.key(1))
                rows.append(jax.device_get(metrics))
        scalars = [name for name, value in rows[0].items() if np.ndim(value) == 0]
        return {name: [float(row[name]) for row in rows] for name in scalars}

    def collectives(self):
        """Of each collective of the step: its kind, and the shape of what it gives a device."""
        pattern = r"= (\S.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
        return [
            [kind, [int(size) for size in dims.split(",") if size]]
            for result, kind in re.findall(pattern + r"(?:-start)?\(", self.step.as_text())
            for dims in re.findall(r"\w\d+\[([\d,]*)\]", result)
        ]


def mesh_of(shape):
    return make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])


def train_on(task, shape, **options):
    return report(Trained(task, shape, **options))


def report(trained):
    print(trained.mesh, file=sys.stderr, flush=True)
    return {"metrics": trained.run(), "collectives": trained.collectives()}


def creation(trained):
    """What the program that creates the state holds on a device."""
    memory, text = trained.created.memory_analysis(), trained.created.as_text()
    arrays = re.findall(r"= f32\[([\d,]+)\]", text)
    return {
        "total": sum(leaf.nbytes for leaf in jax.tree.leaves(trained.state)),
        "output": memory.output_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "shapes": sorted({tuple(map(int, dims.split(","))) for dims in arrays}),
    }


def restored(trained):
    """For each mesh: how many arrays a checkpoint has there, how many are equal and lie as asked.

    Args:
        trained: whose checkpoint; its devices share all parameters.
    """
    task, written, found = trained.task, jax.device_get(trained.state), {}
    with tempfile.TemporaryDirectory() as directory:
        with Checkpoints(Path(directory)) as checkpoints:
            checkpoints.save(trained.state, {"config": {}}, None)
        for name, shape in RESTORED.items():
            mesh = mesh_of(shape)
            with jax.set_mesh(mesh), Checkpoints(Path(directory)) as checkpoints:
                shardings = state_shardings(task.init, trained.optimizer, mesh, task.averaged)
                abstract = jax.tree.map(
                    lambda leaf, sharding: jax.ShapeDtypeStruct(
                        leaf.shape, leaf.dtype, sharding=sharding
                    ),
                    trained.state,
                    shardings,
                )
                state, _ = checkpoints.restore(abstract)
            leaves = map(jax.tree.leaves, (state, written, shardings))
            equal = [
                np.array_equal(leaf, before) and leaf.sharding == sharding
                for leaf, before, sharding in zip(*leaves, strict=True)
            ]
            found[name] = [len(equal), sum(equal)]
    return found


def splash_on(shape):
    """How far the Pallas kernel on a mesh is from XLA's attention, and where its result lies."""
    random = np.random.default_rng(0)
    query, keys, values = (
        jnp.asarray(random.normal(size=(4, 128, heads, 8)), jnp.float32) for heads in (4, 2, 2)
    )
    with jax.set_mesh(mesh_of(shape)):
        run = jax.jit(lambda *given: splash_attention(*given, interpret=True))
        found, wanted = run(query, keys, values), attend(query, keys, values, kernel="xla")
    distance = np.abs(np.asarray(found) - np.asarray(wanted)).max()
    return {"distance": float(distance), "lies": str(found.sharding.spec)}


def shapes_of(task):
    """Of each parameter."""
    return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))]


def main(path):
    """One process for all: starting JAX and compiling what they share costs most of the time."""
    gpt, vqgan = make_gpt_task(), make_vqgan_task()
    split = [shape for shape in MESHES if shape != (1, 1, 8)]  # convolutions have no tensor axis
    shared = Trained(gpt, (1, 8, 1))
    found = {
        "shapes": {"gpt": shapes_of(gpt), "vqgan": shapes_of(vqgan)},
        "creation": creation(shared),
        "gpt": {"(1, 8, 1)": report(shared)},
        "restored": restored(shared),
        "splash": splash_on((2, 2, 2)),
    }
    others = [shape for shape in (ONE, *MESHES) if shape != (1, 8, 1)]
    found["gpt"] |= {str(shape): train_on(gpt, shape) for shape in others}
    found["vqgan"] = {str(shape): train_on(vqgan, shape, optimizer=SLOW) for shape in (ONE, *split)}
    found["accumulated"] = {
        str(shape): train_on(gpt, shape, accumulation_steps=2) for shape in (ONE, (1, 4, 2))
    }
    Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

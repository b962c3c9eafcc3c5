"""Compile time of the sampler by depth, and time a picture by number of tokens.

    make bench

Shapes only for the first table: no parameter of the large models is ever made.
"""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.model import gpt_inputs
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.presets import llamagen
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

BATCH_SIZE = 8


def abstract(gpt):
    shapes = jax.eval_shape(gpt.init, jax.random.key(0), *gpt_inputs(gpt))["params"]
    return nn.unbox(shapes)


def compile_seconds(config):
    gpt = GPT(config)
    params = abstract(gpt)
    started = time.perf_counter()
    lowered = generate.lower(
        gpt,
        params,
        jax.eval_shape(lambda: image_keys(0, np.arange(BATCH_SIZE))),
        jax.ShapeDtypeStruct((BATCH_SIZE,), jnp.int32),
        SamplingConfig(cfg_scale=4.0, top_k=2_000).rows(BATCH_SIZE),
    )
    traced = time.perf_counter()
    lowered.compile()
    return traced - started, time.perf_counter() - traced


def seconds_a_picture(grid_shape, repeats=5):
    config = GPTConfig(
        vocab_size=1_024, grid_shape=grid_shape, num_layers=6, num_heads=6, embed_dim=384,
        num_classes=10,
    )  # fmt: skip
    gpt = GPT(config)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract(gpt))
    rows = SamplingConfig().rows(BATCH_SIZE)
    labels, keys = jnp.zeros((BATCH_SIZE,), jnp.int32), image_keys(0, np.arange(BATCH_SIZE))
    generate(gpt, params, keys, labels, rows).block_until_ready()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        generate(gpt, params, keys, labels, rows).block_until_ready()
        times.append((time.perf_counter() - started) / BATCH_SIZE)
    return float(np.median(times))


def main():
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, batch {BATCH_SIZE}, guidance 4, top-k 2000")
    print(f"{'LlamaGen':>9} {'tokens':>6} {'trace s':>8} {'compile s':>10}")
    compile_seconds(llamagen("B", grid_shape=(4, 4)))  # imports and caches
    for size in ("B", "L", "XL", "XXL", "3B"):
        traced, compiled = compile_seconds(llamagen(size, grid_shape=(24, 24)))
        print(f"{size:>9} {576:>6} {traced:>8.1f} {compiled:>10.1f}")
    print(f"\n6 layers x 384\n{'tokens':>9} {'s a picture':>12} {'ratio':>6}")
    before = None
    for grid_shape in ((8, 16), (16, 16), (16, 32), (32, 32)):
        seconds = seconds_a_picture(grid_shape)
        ratio = "" if before is None else f"{seconds / before:.2f}"
        print(f"{grid_shape[0] * grid_shape[1]:>9} {seconds:>12.3f} {ratio:>6}")
        before = seconds


if __name__ == "__main__":
    main()

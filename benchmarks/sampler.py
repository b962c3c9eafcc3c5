"""Compile time of the sampler by depth, and time a picture by number of tokens.

    make bench

Shapes only for the first table: no parameter of the large models is ever made.
"""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.models.gpt import GPT
from igpt_jax.models.presets import llamagen
from igpt_jax.parameters import generator_inputs
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

BATCH_SIZE = 8


def abstract(gpt):
    shapes = jax.eval_shape(gpt.init, jax.random.key(0), *generator_inputs(gpt))["params"]
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


def seconds_a_picture(grid_shape, batch_size, repeats=3):
    gpt = GPT(llamagen("B", grid_shape=grid_shape))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract(gpt))
    rows, keys = SamplingConfig().rows(batch_size), image_keys(0, np.arange(batch_size))
    labels = jnp.zeros((batch_size,), jnp.int32)
    times = []
    for _ in range(repeats + 1):  # the first one compiles
        started = time.perf_counter()
        generate(gpt, params, keys, labels, rows).block_until_ready()
        times.append((time.perf_counter() - started) / batch_size)
    return float(np.median(times[1:]))


def main():
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, float32 on CPU; batch {BATCH_SIZE}, guidance, top-k")
    print(f"{'LlamaGen':>9} {'tokens':>6} {'trace s':>8} {'compile s':>10}")
    compile_seconds(llamagen("B", grid_shape=(4, 4)))  # imports and caches
    for size in ("B", "XL", "3B"):
        traced, compiled = compile_seconds(llamagen(size, grid_shape=(24, 24)))
        print(f"{size:>9} {576:>6} {traced:>8.1f} {compiled:>10.1f}", flush=True)
    print(f"\nLlamaGen-B\n{'batch':>9} {'tokens':>6} {'s a picture':>12} {'ratio':>6}")
    for batch_size in (1, 4, 8):
        half, whole = (seconds_a_picture(grid, batch_size) for grid in ((12, 24), (24, 24)))
        print(f"{batch_size:>9} {288:>6} {half:>12.2f}")
        print(f"{batch_size:>9} {576:>6} {whole:>12.2f} {whole / half:>6.2f}", flush=True)


if __name__ == "__main__":
    main()

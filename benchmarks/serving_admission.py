"""When a server lets new pictures in: with the next batch, or at every token.

    python benchmarks/serving_admission.py runs/demo --out benchmarks/results/serving_admission.json

Rows that come in at any token need lengths of their own: the write of a step becomes a scatter, and
the cache is read in full, for some row may be at its end. Both kinds of step are measured, then
requests that come by chance (Poisson) are played against the measured times, at several shares of
what whole batches can do.
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
from serving_load import machine

import igpt_jax
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.orders import known_first
from igpt_jax.sampling.drawing import SamplingParams, advance, begin, lead_slots
from igpt_jax.sampling.logits import draw


@functools.partial(jax.jit, static_argnums=(0, 5))
def whole(gpt, params, keys, condition, order, num_slots):
    """A batch from its first token to its last, as the server draws it in one segment."""
    sampling = SamplingParams(jnp.ones(len(keys)))
    prompt = jnp.zeros((len(keys), 0), jnp.int32)
    drawing = begin(gpt, params, keys, condition, sampling, prompt, None, None, order, num_slots)
    return advance(gpt, params, drawing, 1, gpt.config.seq_len, num_slots).tokens


@functools.partial(jax.jit, static_argnums=(0, 5))
def staggered(gpt, params, tokens, caches, order, num_steps):
    """Steps of rows whose lengths differ: each row is a batch of its own, all run as one."""
    keys = jax.random.split(jax.random.key(0), len(tokens))

    def one(token, kv_cache, cells):
        asked = {} if cells is None else {"order": cells[None]}
        logits, kv_cache = gpt.apply(
            {"params": params}, token[None], kv_cache, method="decode_step", **asked
        )
        return logits[0], kv_cache

    def step(carry, _):
        tokens, caches = carry
        logits, caches = jax.vmap(one)(tokens, caches, order)
        step_keys = jax.vmap(jax.random.fold_in)(keys, caches.length)
        return (draw(step_keys, logits, jnp.ones(len(keys)), None, None), caches), None

    return jax.lax.scan(step, (tokens, caches), None, length=num_steps)[0][0]


def seconds(program, rounds):
    """The median time of a program that is made already."""
    jax.block_until_ready(program())
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(program())
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def measure(model, size, rounds):
    """Seconds of a whole batch, and of a step of rows of different lengths."""
    gpt, config = model.gpt, model.gpt.config
    text = ["1"] * size if model.caption_tokenizer or model.text_encoder else None
    labels = np.zeros(size, np.int32) if config.num_classes else None
    asked = model.read_request(size, labels=labels, text=text)
    order = None
    if getattr(config, "order", "raster") == "any":
        order = known_first(jnp.zeros((size, config.seq_len), bool))
    slots = lead_slots(config, asked.condition) + config.seq_len - 1
    keys = jax.random.split(jax.random.key(0), size)
    batch = seconds(lambda: whole(gpt, model.params, keys, asked.condition, order, slots), rounds)
    steps = min(16, config.seq_len // 4)
    lead = slots - config.seq_len + 1
    rows = [
        dataclasses.replace(
            init_kv_cache(config, 1, slots),
            length=jnp.int32(lead + row * (config.seq_len - steps - 1) // size),
        )
        for row in range(size)
    ]
    caches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    cells = None if order is None else order[:, :2]
    tokens = jnp.zeros(size, jnp.int32)
    ran = seconds(lambda: staggered(gpt, model.params, tokens, caches, cells, steps), rounds)
    return batch, ran / steps


def play(arrivals, admit):
    """Seconds from each arrival to its end; `admit(waiting, now)` gives rows taken and ends."""
    waits, queue, now, index = [], [], 0.0, 0
    while index < len(arrivals) or queue:
        while index < len(arrivals) and arrivals[index] <= now:
            queue.append(arrivals[index])
            index += 1
        taken, ends, now = admit(len(queue), now, arrivals[index] if index < len(arrivals) else now)
        waits += [end - came for came, end in zip(queue[:taken], ends, strict=True)]
        queue = queue[taken:]
    return np.array(waits)


def batches(times):
    """Admission with the next batch, of the smallest size that holds what waits."""

    def admit(waiting, now, coming):
        if not waiting:
            return 0, [], coming
        size = next((size for size in times if size >= waiting), max(times))
        taken = min(waiting, size)
        end = now + times[size]
        return taken, [end] * taken, end

    return admit


def slots(size, step, length):
    """Admission at every token, into `size` slots."""
    busy = []

    def admit(waiting, now, coming):
        busy[:] = [end for end in busy if end > now + step / 2]
        if not waiting and not busy:
            return 0, [], coming
        taken = min(waiting, size - len(busy))
        ends = [now + step * length] * taken
        busy.extend(ends)
        return taken, ends, now + step

    return admit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = igpt_jax.load(args.directory)
    length, size = model.gpt.config.seq_len, args.batch_size
    times = {rows: measure(model, rows, args.rounds) for rows in (1, size)}
    batch = {rows: found[0] for rows, found in times.items()}
    step = times[size][1]
    capacity = size / batch[size]
    rows = []
    for share in (0.1, 0.3, 0.6, 0.9):
        rng = np.random.default_rng(0)
        arrivals = np.cumsum(rng.exponential(1 / (share * capacity), args.requests))
        row = {"load": share}
        for name, admit in (("batches", batches(batch)), ("tokens", slots(size, step, length))):
            waits = play(arrivals, admit)
            row[name] = {
                "seconds_p50": round(float(np.median(waits)), 3),
                "seconds_p95": round(float(np.percentile(waits, 95)), 3),
            }
        rows.append(row)
    told = {
        "of": {**machine(), "command": " ".join(["python", *sys.argv])},
        "tokens": length,
        "batch_size": size,
        "batch_seconds": {rows: round(found, 4) for rows, found in batch.items()},
        "step_milliseconds_shared_length": round(1000 * batch[size] / length, 3),
        "step_milliseconds_own_lengths": round(1000 * step, 3),
        "pictures_a_second": {
            "batches": round(capacity, 2),
            "tokens": round(size / (step * length), 2),
        },
        "latency": rows,
    }
    text = json.dumps(told, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

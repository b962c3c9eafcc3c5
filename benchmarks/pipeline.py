r"""How fast the data pipeline alone is: cards drawn and prepared, tokens read from shards.

    python benchmarks/pipeline.py --batches 50

Prints one line of JSON a source: examples and bytes a second, at so many threads. Training waits if
this is less than its `images_per_second`; `data_wait_share` in `metrics.jsonl` says how long.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.encode import EncodingConfig, TokenSource, encode_dataset
from igpt_jax.data.items import to_picture
from igpt_jax.data.pipeline import make_dataset
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.sources import open_source
from igpt_jax.data.transforms import TransformConfig

SEQ_LEN = 256
NUM_ENCODED = 4_096
WARM_UP = 5  # batches, in which threads start and what is read ahead is used up


def measured(name: str, dataset, batch_size: int, num_batches: int, num_threads: int) -> dict:
    """Reads batches and counts."""
    batches = iter(dataset)
    for _ in range(WARM_UP):
        next(batches)
    started, num_bytes = time.perf_counter(), 0
    for batch in itertools.islice(batches, num_batches):
        num_bytes += sum(array.nbytes for array in batch.values())
    seconds = time.perf_counter() - started
    return {
        "source": name,
        "threads": num_threads,
        "batch_size": batch_size,
        "examples_per_second": round(num_batches * batch_size / seconds, 1),
        "megabytes_per_second": round(num_bytes / seconds / 1e6, 2),
        "cpus": os.cpu_count(),
    }


def cards(image_size: int, batch_size: int, num_threads: int):
    """Playing cards, drawn when they are asked for."""
    source = open_source(CardsConfig(num_cards=100_000, image_size=image_size), "train")
    transform = to_picture(TransformConfig(image_size=image_size, crop="resize"), None, 1)
    return make_dataset(
        source, transform=transform, global_batch_size=batch_size, seed=0, shuffle=True,
        num_epochs=None, num_threads=num_threads,
    )  # fmt: skip


def write_tokens(directory: Path) -> None:
    """Shards of random tokens, as a run of LlamaGen's VQ-16 at 256 pixels writes them."""
    random = np.random.default_rng(0)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(NUM_ENCODED // 128):
            yield {
                "image": np.zeros((128, 1, 8, 8, 3), np.uint8),
                "label": random.integers(0, 1_000, 128).astype(np.int32),
            }

    def encode(images):
        return jnp.asarray(random.integers(0, 16_384, (len(images), SEQ_LEN)), jnp.int32)

    header = {"split": "train", "vocab_size": 16_384, "grid_shape": [16, 16]}
    encode_dataset(
        batches(), encode, lambda tokens: jnp.zeros((len(tokens), 8, 8, 3), jnp.uint8), directory,
        config=EncodingConfig(batch_size=128), header=header, total=NUM_ENCODED,
        skipped=SkippedImages(),
    )  # fmt: skip


def main() -> None:
    """Measures both sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 1, 4])
    asked = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    size, count = asked.batch_size, asked.batches
    with tempfile.TemporaryDirectory() as directory:
        write_tokens(Path(directory) / "tokens")
        shards = TokenSource(Path(directory) / "tokens", expected={})
        for threads in asked.threads:
            name = f"cards {asked.image_size}"
            dataset = cards(asked.image_size, size, threads)
            print(json.dumps(measured(name, dataset, size, count, threads)), flush=True)
        for threads in asked.threads:
            dataset = make_dataset(
                shards, global_batch_size=size, seed=0, shuffle=True, num_epochs=None,
                num_threads=threads,
            )  # fmt: skip
            print(json.dumps(measured("tokens 256", dataset, size, count, threads)), flush=True)


if __name__ == "__main__":
    main()

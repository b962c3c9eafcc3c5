"""What it costs to draw a batch in segments, beside the sampler that draws it at once.

python benchmarks/serving_segments.py runs/demo --out benchmarks/results/serving_segments.json
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from serving_load import PROMPTS, asked, machine

import igpt_jax
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.painter import ModelPainter


def rate(draw, batch_size, seconds):
    """Pictures a second; the programs are made before."""
    draw(0)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        draw(count)
        count += batch_size
    return round(count / (time.perf_counter() - started), 2)


def painting(model, batch_size, segments, takes_text):
    """Draws a batch as the engine does, without anybody else."""
    painter = ModelPainter(model, (batch_size,), segments)

    def draw(seed):
        asks = [
            Ask(prompt=PROMPTS[i % len(PROMPTS)], seed=seed)
            if takes_text
            else Ask(label=i % 10, seed=seed)
            for i in range(batch_size)
        ]
        hand = painter.enter(
            None, batch_size, [(painter.read(ask), 0) for ask in asks], range(batch_size)
        )
        while min(hand.positions) < painter.num_tokens:
            hand = painter.advance(hand)
        painter.finish(hand, range(batch_size))

    return draw


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--segments", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    size = args.batch_size
    model = dataclasses.replace(igpt_jax.load(args.directory), batch_size=size)
    takes_text = bool(model.caption_tokenizer or model.text_encoder)
    rows = asked(size, takes_text)
    ways = {"sampler": lambda seed: model.sample(**rows, seed=seed)}
    for segments in args.segments:
        ways[f"{segments} segments"] = painting(model, size, segments, takes_text)
    found = {name: [] for name in ways}
    for _ in range(args.rounds):  # in turn, for the machine changes, too
        for name, draw in ways.items():
            found[name].append(rate(draw, size, args.seconds))
    told = {
        "of": {**machine(), "command": " ".join(["python", *sys.argv])},
        "batch_size": size,
        "tokens": model.gpt.config.seq_len,
        "pictures_a_second": found,
    }
    text = json.dumps(told, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""All quantizers on the same data with the same budget: the table of docs/tokenizers.md.

    IGPT_DATA=/folder/of/cifar10-train.zip python benchmarks/quantizers.py --out runs/tokenizers

Each line is one run (DIR/NAME, goes on where it stopped) and one evaluation on all validation
pictures. `--only 256-fsq,64-vq` picks some; `--steps N` changes the length of all.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax

from igpt_jax.config import RunConfig
from igpt_jax.data.folders import FolderConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.measuring.tokenizer import evaluate
from igpt_jax.run import run
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.losses import AutoencoderLossConfig
from igpt_jax.tokenizers.quantizers import (
    BinaryQuantizerConfig,
    FiniteScalarQuantizerConfig,
    GumbelQuantizerConfig,
    MovingAverageQuantizerConfig,
    ResidualQuantizerConfig,
    VectorQuantizerConfig,
)
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig

CODES = 1_024  # 10 bits a token
BATCH_SIZE = 16
LEARNED = {"codebook_size": CODES, "code_dim": 8}
SURE = {"entropy_temperature": 0.1}
# Name -> quantizer and the weights of its terms where they are not the defaults.
QUANTIZERS = {
    "vq": (VectorQuantizerConfig(**LEARNED, l2_normalize=False), {}),
    "vq-rotation": (
        VectorQuantizerConfig(**LEARNED, l2_normalize=False, gradient="rotation"),
        {},
    ),
    "l2-vq-plain": (VectorQuantizerConfig(**LEARNED), {}),
    "l2-vq": (VectorQuantizerConfig(**LEARNED, **SURE), {"entropy_weight": 0.005}),
    "ema-vq": (MovingAverageQuantizerConfig(**LEARNED), {}),
    "fsq-plain": (FiniteScalarQuantizerConfig(), {}),  # 8 x 5 x 5 x 5 = 1,000 codes
    "fsq": (FiniteScalarQuantizerConfig(**SURE), {"entropy_weight": 0.01}),
    "lfq": (BinaryQuantizerConfig(num_bits=10), {}),
    "bsq": (BinaryQuantizerConfig(num_bits=10, spherical=True), {}),
    "gumbel": (GumbelQuantizerConfig(**LEARNED), {"kl_weight": 0.005}),
    # The same bits: half the positions a side, four tokens each.
    "rvq": (ResidualQuantizerConfig(4, MovingAverageQuantizerConfig(**LEARNED)), {}),
}
PATCH_SIZES = {256: 2, 64: 4}


def config(tokens: int, name: str, steps: int) -> RunConfig:
    """One run: 32 x 32 pixels as a grid of 256 or 64 tokens."""
    quantizer, weights = QUANTIZERS[name]
    is_residual = isinstance(quantizer, ResidualQuantizerConfig)
    patch_size = PATCH_SIZES[tokens] * (2 if is_residual else 1)
    return RunConfig(
        data=FolderConfig("$IGPT_DATA/cifar10-train.zip", validation_per_class=500),
        transform=TransformConfig(image_size=32, crop="resize"),
        tokenizer=AutoencoderConfig(
            image_size=32,
            patch_size=patch_size,
            base_channels={2: 64, 4: 128, 8: 192}[patch_size],
            channel_multipliers=(1,),
            num_res_blocks=1,
            num_decoder_res_blocks=2,
            latent_channels=64,
            attention=False,
            middle=False,
            quantizer=quantizer,
        ),
        tokenizer_loss=AutoencoderLossConfig(**weights),
        tokenizer_training=TrainConfig(
            num_steps=steps,
            global_batch_size=BATCH_SIZE,
            optimizer=OptimizerConfig(
                peak_lr=2e-3, warmup_steps=100, end_lr_ratio=0.02, weight_decay=0.0
            ),
            log_every=100,
            eval_every=steps,
            picture_every=steps,
            checkpoint_every=steps,
        ),
        last_stage="tokenizer",
    )


def main() -> None:
    """Runs and prints the table."""
    names = [f"{tokens}-{name}" for tokens in PATCH_SIZES for name in QUANTIZERS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizers"))
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--only", default=",".join(names))
    args = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}; {args.steps} steps of {BATCH_SIZE} pictures")
    print("| tokens | quantizer | PSNR dB | SSIM | codes used | perplexity | ms a step |")
    print("|---|---|---|---|---|---|---|")
    for full_name in args.only.split(","):
        tokens, _, name = full_name.partition("-")
        directory = args.out / full_name
        started = time.perf_counter()
        run(config(int(tokens), name, args.steps), directory)
        seconds = time.perf_counter() - started
        result = evaluate(directory) | {"train_seconds": seconds, "steps": args.steps}
        (directory / "line.json").write_text(json.dumps(result))
        rows = (directory / "tokenizer" / "metrics.jsonl").read_text().splitlines()
        speeds = [json.loads(row).get("images_per_second") for row in rows]
        speed = statistics.median(value for value in speeds if value)
        print(
            f"| {tokens} | {name} | {result['psnr']:.2f} | {result['ssim']:.3f} "
            f"| {result['codebook_usage']:.1%} | {result['perplexity']:.0f} "
            f"| {1_000 * BATCH_SIZE / speed:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

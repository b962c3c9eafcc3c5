r"""Before and after the adversary, and whether the game stays stable: docs/tokenizers.md.

    IGPT_DATA=/folder/of/cifar10-train.zip python benchmarks/adversary.py \
        --start runs/tokenizers/64-ema-vq

Goes on with a trained tokenizer (one of benchmarks/quantizers.py): once without an adversary, and
against a discriminator for each of the three losses, which the tokenizer feels for 2,000 steps.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np
from quantizers import BATCH_SIZE, config

from igpt_jax.config import RunConfig
from igpt_jax.evaluation.spectrum import high_frequency_energy, radial_power_spectrum
from igpt_jax.grid import image_grid, save_png
from igpt_jax.measuring.tokenizer import evaluate, pictures
from igpt_jax.programs import decode_tokens, encode_images
from igpt_jax.run import run
from igpt_jax.stored import load_tokenizer
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.training.metrics import read_metrics
from igpt_jax.training.optimizer import OptimizerConfig

LOSSES = ("hinge", "non_saturating", "vanilla")
START, LEAD = 200, 200
NUM_SHOWN = 8
ZOOM = 4


def continued(start: Path, loss: str | None, steps: int) -> RunConfig:
    """The run `start`, gone on with, with or without an adversary."""
    tokens, _, name = start.name.partition("-")
    base = config(int(tokens), name, START + steps)
    adversary = AdversaryConfig(
        PatchDiscriminatorConfig(base_channels=32, num_layers=2),
        loss=loss or "hinge",
        weight=0.5,
        start_step=START,
        lead_steps=LEAD,
    )
    return dataclasses.replace(
        base,
        tokenizer_start=str(start),
        adversary=None if loss is None else adversary,
        discriminator_optimizer=OptimizerConfig(
            peak_lr=4e-4, warmup_steps=0, end_lr_ratio=1.0, beta1=0.5, beta2=0.9, weight_decay=0.0
        ),
        tokenizer_training=dataclasses.replace(
            base.tokenizer_training,
            optimizer=OptimizerConfig(
                peak_lr=2e-4, warmup_steps=0, end_lr_ratio=1.0, weight_decay=0.0
            ),
            log_every=50,
            eval_every=START,
            eval_batches=64,
        ),
    )


def main() -> None:
    """Runs, prints the tables, saves the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/adversary"))
    parser.add_argument("--steps", type=int, default=2_000)
    args = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; batch {BATCH_SIZE}")
    directories = {"before": args.start, "no adversary": args.out / "none"}
    directories |= {loss: args.out / loss for loss in LOSSES}
    for name, directory in directories.items():
        if name != "before":
            loss = None if name == "no adversary" else name
            run(continued(args.start, loss, args.steps), directory)
    base = continued(args.start, None, args.steps)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    originals = next(pictures(base, "validation", 1_000, 1_000))
    wanted, spectra = high_frequency_energy(originals), {}
    rows, captions = [originals[:NUM_SHOWN]], ["original"]
    print("| tokenizer | PSNR dB | SSIM | high-frequency energy, share of the originals' |")
    print("|---|---|---|---|")
    for name, directory in directories.items():
        tokenizer, params = load_tokenizer(base.tokenizer, directory, device)
        decoded = np.asarray(
            decode_tokens(tokenizer, params, encode_images(tokenizer, params, originals))
        )
        spectra[name] = radial_power_spectrum(decoded)
        measured = evaluate(directory, num_images=1_000)
        share = high_frequency_energy(decoded) / wanted
        print(f"| {name} | {measured['psnr']:.2f} | {measured['ssim']:.3f} | {share:.2f} |")
        rows.append(decoded[:NUM_SHOWN])
        captions.append(name)
    labels = [text for caption in captions for text in (caption, *[""] * (NUM_SHOWN - 1))]
    large = np.concatenate(rows).repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
    grid = image_grid(large, NUM_SHOWN, labels)
    save_png(args.out / "before_and_after.png", grid)
    print("| loss | PSNR at the start | lowest after | at the end | accuracy of D | weight |")
    print("|---|---|---|---|---|---|")
    for loss in LOSSES:
        measured = read_metrics(directories[loss] / "tokenizer", "validation")
        psnrs = [row["psnr"] for row in measured if row["step"] >= START]
        played = [
            row
            for row in read_metrics(directories[loss] / "tokenizer", "train")
            if row["step"] > START
        ]
        accuracy = [row["discriminator_accuracy"] for row in played]
        weights = [row["adversarial_weight"] for row in played]
        print(
            f"| {loss} | {psnrs[0]:.2f} | {min(psnrs):.2f} | {psnrs[-1]:.2f} "
            f"| {min(accuracy):.2f} to {max(accuracy):.2f}, median {np.median(accuracy):.2f} "
            f"| {np.median(weights):.3f} |"
        )


if __name__ == "__main__":
    main()

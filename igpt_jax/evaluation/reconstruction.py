"""How well a tokenizer gives pictures back, and how it uses its codes."""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.evaluation.extractors import Extractor
from igpt_jax.evaluation.frechet import FeatureStatistics, frechet_distance
from igpt_jax.evaluation.generation import score_name
from igpt_jax.similarity import WINDOW_SIZE, psnr, ssim
from igpt_jax.tokenizers.base import ImageTokenizer, decode, encode, to_bytes, to_pixels
from igpt_jax.tokenizers.codebook import codebook_usage, perplexity, token_counts
from igpt_jax.tokenizers.perceptual import LPIPS
from igpt_jax.typing import Array, Float, Int, Params, UInt8


def evaluate_tokenizer(
    tokenizer: ImageTokenizer,
    params: Params,
    batches: Iterable[UInt8[np.ndarray, "_ _ _ 3"]],  # of several sizes, so without names
    *,
    num_levels: int = 1,
    lpips: Params | None = None,
    extractor: Extractor | None = None,
) -> dict[str, Any]:
    """Measure reconstructions of pictures, rounded to 256 steps as they are when saved.

    Args:
        tokenizer: the module.
        params: its parameters.
        batches: pictures; one size of batch, but the last may be smaller.
        num_levels: tokens a position; codes are counted for each level.
        lpips: parameters of `LPIPS`, to measure it.
        extractor: what makes features, to measure how far reconstructions are from pictures.

    Returns:
        `num_images`; `psnr` [dB] and `ssim`, means over pictures; `codebook_usage` (share of codes
        that occur) and `perplexity` of all tokens, means over levels; `bits_per_image`; where
        weights were given `lpips`, and where an extractor was the Fréchet distance between pictures
        and their reconstructions, which depends on `num_images`: `rfid` (Heusel et al. 2017) of
        FID's Inception, `reconstruction_frechet_distance[...]` of other features.
    """
    sums: dict[str, float] = {}
    counts = np.zeros((num_levels, tokenizer.vocab_size))
    num_images, size = 0, 0
    real, fake = FeatureStatistics(), FeatureStatistics()
    for images in batches:
        size = size or len(images)
        rows = np.minimum(np.arange(size), len(images) - 1)  # a short batch compiles nothing new
        measured, tokens, decoded = _measure(tokenizer, params, lpips, images[rows])
        for name, values in measured.items():
            sums[name] = sums.get(name, 0.0) + float(np.sum(values[: len(images)]))
        by_level = tokens[: len(images)].reshape(-1, num_levels).T
        counts += np.asarray(
            [token_counts(level, tokenizer.vocab_size) for level in jnp.asarray(by_level)]
        )
        num_images += len(images)
        if extractor is not None:
            real.update(extractor(images).pooled)
            fake.update(extractor(np.asarray(decoded)[: len(images)]).pooled)
    shares = jnp.asarray(counts / counts.sum(axis=1, keepdims=True), jnp.float32)
    result = {"num_images": num_images, **{name: s / num_images for name, s in sums.items()}}
    result |= {
        "codebook_usage": float(jnp.mean(codebook_usage(shares))),
        "perplexity": float(jnp.mean(perplexity(shares))),
        "bits_per_image": float(counts.sum() / num_images * np.log2(tokenizer.vocab_size)),
    }
    if extractor is not None:
        name = score_name("reconstruction_frechet_distance", extractor)
        result[name] = frechet_distance(real, fake)
    return result


@partial(jax.jit, static_argnums=0)
def _measure(
    tokenizer: ImageTokenizer,
    params: Params,
    lpips: Params | None,
    images: UInt8[Array, "b h w 3"] | UInt8[np.ndarray, "b h w 3"],
) -> tuple[dict[str, Float[Array, " b"]], Int[Array, "b l"], UInt8[Array, "b h w 3"]]:
    pixels = to_pixels(images)
    tokens = encode(tokenizer, params, pixels)
    shown = to_bytes(decode(tokenizer, params, tokens))
    decoded = to_pixels(shown)
    measured = {"psnr": psnr(pixels, decoded)}
    if tokenizer.image_size >= WINDOW_SIZE:
        measured["ssim"] = ssim(pixels, decoded)
    if lpips is not None:
        measured["lpips"] = cast(Array, LPIPS().apply({"params": lpips}, pixels, decoded))
    return measured, tokens, shown

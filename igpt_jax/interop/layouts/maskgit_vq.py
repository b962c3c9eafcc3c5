"""MaskGIT-VQ as the PyTorch port in bytedance/1d-tokenizer names it (`PretrainedTokenizer`).

Published as `fun-research/TiTok/maskgit-vqgan-imagenet-f16-256.bin`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.base import (
    Layout,
    Source,
    Specs,
    conv_kernel,
    count_layers,
    one,
    shape_of,
)
from igpt_jax.tokenizers.maskgit_vq import MaskGITVQ, MaskGITVQConfig

_KIND: Final = "maskgit-vq"
_RES_BLOCK: Final = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "nin_shortcut",
}


def maskgit_vq(specs: Specs, *, image_size: int = 256, **overrides: Any) -> Layout:
    """MaskGIT-VQ; its arrays tell its size.

    Args:
        specs: the checkpoint's arrays.
        image_size: pixels a side, which no array tells.
        overrides: other fields of `MaskGITVQConfig`.

    Raises:
        UserError: an array that tells the size is missing, or the sizes do not fit together.
    """
    config = dataclasses.replace(_read_config(specs, image_size), **overrides)
    sources: dict[str, Source] = {"codebook": one("quantize.embedding.weight")}
    shapes: dict[str, tuple[int, ...]] = {
        "quantize.embedding.weight": (config.codebook_size, config.latent_channels)
    }
    for ours, published, shape in _layers(config):
        if "norm" in ours:
            sources[f"{ours}/scale"] = one(f"{published}.weight")
        else:
            sources[f"{ours}/kernel"] = one(f"{published}.weight", conv_kernel)
        shapes[f"{published}.weight"] = shape
        if "norm" in ours or _has_bias(ours):
            sources[f"{ours}/bias"] = one(f"{published}.bias")
            shapes[f"{published}.bias"] = shape[:1]
    return Layout(MaskGITVQ(config), sources, shapes)


def _has_bias(ours: str) -> bool:
    """Whether a convolution has a bias: the first one and those of residual blocks have none."""
    return "_res_" not in ours and ours != "encoder/conv_in"


def _read_config(specs: Specs, image_size: int) -> MaskGITVQConfig:
    codebook_size, latent_channels = shape_of(specs, "quantize.embedding.weight", 2, _KIND)
    base_channels = shape_of(specs, "encoder.conv_in.weight", 4, _KIND)[0]
    level_channels = [
        shape_of(specs, f"encoder.down.{level}.block.0.norm2.weight", 1, _KIND)[0]
        for level in range(count_layers(specs, "encoder.down."))
    ]
    if not level_channels or any(channels % base_channels for channels in level_channels):
        raise UserError(
            f"{_KIND}: expected levels of multiples of the {base_channels} channels of "
            f"encoder.conv_in.weight, got {level_channels}; is this a checkpoint of another kind?"
        )
    return MaskGITVQConfig(
        image_size=image_size,
        base_channels=base_channels,
        channel_multipliers=tuple(channels // base_channels for channels in level_channels),
        num_res_blocks=count_layers(specs, "encoder.down.0.block."),
        latent_channels=latent_channels,
        codebook_size=codebook_size,
    )


def _layers(config: MaskGITVQConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Our path, the published name and the weight's shape of every convolution and norm."""
    levels = list(enumerate(config.level_channels))
    lowest, latent = config.level_channels[-1], config.latent_channels

    yield "encoder/conv_in", "encoder.conv_in", (config.base_channels, 3, 3, 3)
    channels = config.base_channels
    for level, outputs in levels:
        ours, published = f"encoder/level_{level}", f"encoder.down.{level}.block"
        yield from _res_blocks(ours, published, config.num_res_blocks, channels, outputs)
        channels = outputs
    yield from _res_blocks("encoder/mid", "encoder.mid", config.num_res_blocks, lowest, lowest)
    yield "encoder/norm_out", "encoder.norm_out", (lowest,)
    yield "encoder/conv_out", "encoder.conv_out", (latent, lowest, 1, 1)

    yield "decoder/conv_in", "decoder.conv_in", (lowest, latent, 3, 3)
    yield from _res_blocks("decoder/mid", "decoder.mid", config.num_res_blocks, lowest, lowest)
    for level, outputs in reversed(levels):
        ours, published = f"decoder/level_{level}", f"decoder.up.{level}"
        blocks = f"{published}.block"
        yield from _res_blocks(ours, blocks, config.num_res_blocks, channels, outputs)
        if level > 0:
            shape = (outputs, outputs, 3, 3)
            yield f"{ours}_upsample/conv", f"{published}.upsample_conv", shape
        channels = outputs
    yield "decoder/norm_out", "decoder.norm_out", (channels,)
    yield "decoder/conv_out", "decoder.conv_out", (3, channels, 3, 3)


def _res_blocks(
    ours: str, published: str, num_blocks: int, inputs: int, outputs: int
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for block in range(num_blocks):
        shapes = {
            "norm_0": (inputs,),
            "conv_0": (outputs, inputs, 3, 3),
            "norm_1": (outputs,),
            "conv_1": (outputs, outputs, 3, 3),
        }
        if inputs != outputs:
            shapes["shortcut"] = (outputs, outputs, 1, 1)
        for name, shape in shapes.items():
            yield f"{ours}_res_{block}/{name}", f"{published}.{block}.{_RES_BLOCK[name]}", shape
        inputs = outputs

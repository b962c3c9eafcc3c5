"""Convolutional tokenizers: VQGAN of taming, LlamaGen and Janus, one network by three names.

Facts: CompVis/taming-transformers `taming/modules/diffusionmodules/model.py`, FoundationVision/
LlamaGen `tokenizer/tokenizer_image/vq_model.py`, transformers `models/janus`.
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import count, takewhile
from typing import Any, Final

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.base import (
    NOTHING,
    Layout,
    Source,
    Specs,
    conv_kernel,
    count_layers,
    leaf_shapes,
    one,
    shape_of,
)
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.quantizers import VectorQuantizerConfig

_LEAVES: Final = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "codebook": "embedding.weight",
}  # fmt: skip
LAYER_NAMES: Final = {
    "norm_0": "norm1", "norm_1": "norm2", "conv_0": "conv1", "conv_1": "conv2",
    "shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out",
    "quantizer": "quantize",
}  # fmt: skip
LEVEL_PART: Final = re.compile(r"level_(\d+)_(res|attention|downsample|upsample)(?:_(\d+))?")

BlockName = Callable[[str, int, str], str]
"""Published name of a level's part: from "encoder" or "decoder", the level (0 is the highest
resolution) and "res", "attn", "downsample" or "upsample"."""


def taming_vqgan(specs: Specs, *, image_size: int = 256, **overrides: Any) -> Layout:
    """VQGAN of taming-transformers, alone or inside the checkpoint of a transformer of its tokens.

    Args:
        specs: the checkpoint's arrays.
        image_size: pixels a side.
        overrides: other fields of `AutoencoderConfig`.
    """
    if "quantize.embed.weight" in specs:
        raise UserError(
            "taming-vqgan: expected a codebook quantize.embedding.weight, got the Gumbel quantizer "
            "quantize.embed.weight, which is not supported; take a model with a codebook"
        )
    prefix = "first_stage_model." if any(n.startswith("first_stage_model.") for n in specs) else ""
    middle = ("mid.block_1", "mid.attn_1", "mid.block_2")

    def block(side: str, level: int, kind: str) -> str:
        levels = "down" if side == "encoder" else "up"
        return f"{levels}.{level}.{'block' if kind == 'res' else kind}"

    ignored = r"(loss|ema|model_ema)\..*|colorize"
    if prefix:
        ignored = rf"(?!first_stage_model\.).*|{prefix}loss\..*"
    return _layout(
        specs, block, middle, "taming-vqgan", prefix,
        l2_normalize=False, ignored=ignored, image_size=image_size, **overrides,
    )  # fmt: skip


def llamagen_vq(specs: Specs, *, image_size: int = 256, **overrides: Any) -> Layout:
    """VQ-8 and VQ-16 of LlamaGen; arguments as for `taming_vqgan`."""
    num_levels = count_layers(specs, "encoder.conv_blocks.")

    def block(side: str, level: int, kind: str) -> str:
        return f"conv_blocks.{level if side == 'encoder' else num_levels - 1 - level}.{kind}"

    return _layout(
        specs, block, ("mid.0", "mid.1", "mid.2"), "llamagen-vq",
        l2_normalize=True, ignored=r"quantize\.codebook_used", image_size=image_size, **overrides,
    )  # fmt: skip


def janus_vq(specs: Specs, *, image_size: int = 384, **overrides: Any) -> Layout:
    """The image tokenizer of Janus, LlamaGen's VQ-16 (`JanusVQVAE` of transformers).

    Latents are compared by direction, as Janus' own code does (deepseek-ai/Janus `vq_model.py`);
    transformers compares them as they are, and finds other tokens where codes are not of length 1.
    Arguments as for `taming_vqgan`.
    """
    prefix = "model.vqmodel." if any(n.startswith("model.vqmodel.") for n in specs) else ""
    num_levels = count_layers(specs, f"{prefix}encoder.down.")

    def block(side: str, level: int, kind: str) -> str:
        kind = "block" if kind == "res" else kind
        place = f"down.{level}" if side == "encoder" else f"up.{num_levels - 1 - level}"
        return f"{place}.{kind}"

    middle = ("mid.block_1", "mid.attn_1", "mid.block_2")
    return _layout(
        specs, block, middle, "janus-vq", prefix,
        l2_normalize=True, ignored=r"(?!model\.vqmodel\.).*" if prefix else NOTHING,
        image_size=image_size, **overrides,
    )  # fmt: skip


def _layout(
    specs: Specs,
    block: BlockName,
    middle: tuple[str, str, str],
    kind: str,
    prefix: str = "",
    *,
    l2_normalize: bool,
    ignored: str,
    **fields: Any,
) -> Layout:
    name = partial(_published_name, block=block, middle=middle)
    shapes = partial(shape_of, specs, kind=kind)
    base_channels = shapes(f"{prefix}encoder.conv_in.weight", ndim=4)[0]

    def level(index: int) -> str:
        return f"{prefix}encoder.{block('encoder', index, 'res')}."

    levels = list(takewhile(lambda i: f"{level(i)}0.conv1.weight" in specs, count()))
    if not levels:
        raise UserError(
            f"{kind}: expected levels encoder.{block('encoder', 0, 'res')}.*, found none; is this "
            "a checkpoint of another kind?"
        )
    channels = [shapes(f"{level(i)}0.conv1.weight", ndim=4)[0] for i in levels]
    codebook_size, code_dim = shapes(f"{prefix}quantize.embedding.weight", ndim=2)
    attention = f"encoder.{block('encoder', levels[-1], 'attn')}.0.norm.weight"
    told: dict[str, Any] = {
        "base_channels": base_channels,
        "channel_multipliers": tuple(each // base_channels for each in channels),
        "num_res_blocks": count_layers(specs, level(levels[-1])),
        "latent_channels": shapes(f"{prefix}encoder.conv_out.weight", ndim=4)[0],
        "attention": prefix + attention in specs,
        "quantizer": VectorQuantizerConfig(codebook_size, code_dim, l2_normalize=l2_normalize),
    }
    module = Autoencoder(AutoencoderConfig(**(told | fields)))
    sources: dict[str, Source] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    for path, leaf in leaf_shapes(module).items():
        published = prefix + name(path.split("/"))
        is_kernel = len(leaf.shape) == 4
        sources[path] = one(published, conv_kernel) if is_kernel else one(published)
        height, width, into, out = leaf.shape if is_kernel else (0, 0, 0, 0)
        wanted[published] = (out, into, height, width) if is_kernel else leaf.shape
    return Layout(module, sources, wanted, ignored)


def _published_name(path: list[str], block: BlockName, middle: tuple[str, str, str]) -> str:
    side, *layers, leaf = path
    if side in ("encoder", "decoder"):
        ours = dict(zip(("mid_res_0", "mid_attention", "mid_res_1"), middle, strict=True))
        if found := LEVEL_PART.fullmatch(layers[0]):
            level, part, index = found.groups()
            part = "attn" if part == "attention" else part
            layers[0] = block(side, int(level), part) + (f".{index}" if index else "")
        else:
            layers[0] = ours.get(layers[0], layers[0])
    return ".".join([*(LAYER_NAMES.get(x, x) for x in (side, *layers)), _LEAVES[leaf]])

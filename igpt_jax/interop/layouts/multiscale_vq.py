"""VAR's multi-scale tokenizer.

Facts: FoundationVision/VAR `models/{vqvae,basic_vae,quant}.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.autoencoders import LAYER_NAMES, LEVEL_PART
from igpt_jax.interop.layouts.base import (
    Layout,
    Source,
    Specs,
    conv_kernel,
    count_layers,
    leaf_shapes,
    one,
    shape_of,
)
from igpt_jax.scales import SCALES_256, SCALES_512
from igpt_jax.tokenizers.multiscale_vq import MultiscaleVQ, MultiscaleVQConfig

_LAYERS: Final = {
    **LAYER_NAMES,
    "mid_res_0": "mid.block_1",
    "mid_attention": "mid.attn_1",
    "mid_res_1": "mid.block_2",
}
_BLOCKS: Final = {"res": "block", "attention": "attn"}
_FUSED: Final = ("query", "key", "value")


def var_vq(
    specs: Specs,
    *,
    image_size: int = 256,
    scales: Sequence[int] | None = None,
    **overrides: Any,
) -> Layout:
    """VAR's tokenizer; the same weights serve pictures of 256 and of 512 pixels.

    Args:
        specs: the checkpoint's arrays.
        image_size: pixels a side.
        scales: tokens a side of each map; None for those published for 256 or 512 pixels.
        overrides: other fields of `MultiscaleVQConfig`.
    """
    kind = "var-vq"
    if scales is None:
        scales = {256: SCALES_256, 512: SCALES_512}.get(image_size)
        if scales is None:
            raise UserError(
                f"{kind}: expected image_size 256 or 512, or scales, got {image_size}; pass "
                "scales=(1, ..., N)"
            )
    base_channels = shape_of(specs, "encoder.conv_in.weight", 4, kind)[0]
    levels = count_layers(specs, "encoder.down.")
    blocks = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    multipliers = [shape_of(specs, name, 4, kind)[0] // base_channels for name in blocks]
    codebook_size, latent_channels = shape_of(specs, "quantize.embedding.weight", 2, kind)
    fields: dict[str, Any] = {
        "image_size": image_size,
        "base_channels": base_channels,
        "channel_multipliers": tuple(multipliers),
        "num_res_blocks": count_layers(specs, "encoder.down.0.block."),
        "latent_channels": latent_channels,
        "codebook_size": codebook_size,
        "scales": tuple(scales),
    }
    module = MultiscaleVQ(MultiscaleVQConfig(**(fields | overrides)))
    sources: dict[str, Source] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in leaf_shapes(module).items():
        published, part = _vq_name(path)
        is_kernel = len(leaf.shape) == 4
        height, width, into, out = leaf.shape if is_kernel else (0, 0, 0, leaf.shape[0])
        out *= 1 if part is None else len(_FUSED)
        shapes[published] = (out, into, height, width) if is_kernel else (out, *leaf.shape[1:])
        sources[path] = one(published, partial(_vq_part, part=part))
    return Layout(module, sources, shapes, r"quantize\.ema_vocab_hit_SV")


def _vq_name(path: str) -> tuple[str, int | None]:
    """Published name of one of our parameters, and which third of that array it is, if so."""
    if path == "codebook":
        return "quantize.embedding.weight", None
    side, *layers, leaf = path.split("/")
    if side.startswith("phi_"):
        side = f"quantize.quant_resi.qresi_ls.{side.removeprefix('phi_')}"
    part = _FUSED.index(layers[-1]) if layers and layers[-1] in _FUSED else None
    if part is not None:
        layers[-1] = "qkv"
    if layers and (found := LEVEL_PART.fullmatch(layers[0])):
        level, block, index = found.groups()
        layers[0] = f"{'down' if side == 'encoder' else 'up'}.{level}."
        layers[0] += _BLOCKS.get(block, block) + (f".{index}" if index else "")
    names = [side, *(_LAYERS.get(layer, layer) for layer in layers)]
    return ".".join([*names, "bias" if leaf == "bias" else "weight"]), part


def _vq_part(array: np.ndarray, part: int | None) -> np.ndarray:
    if part is not None:
        array = np.split(array, len(_FUSED))[part]
    return conv_kernel(array) if array.ndim == 4 else array

"""VAR and its multi-scale tokenizer.

Facts: FoundationVision/VAR `models/{vqvae,basic_vae,quant,var,basic_var}.py`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.layouts.base import (
    Layout,
    Source,
    Specs,
    check_head_dim,
    count_layers,
    merge_heads,
    one,
    per_layer,
    shape_of,
    split_heads,
    split_heads_bias,
    split_parts,
    transposed,
)
from igpt_jax.models.var import VAR, VARConfig
from igpt_jax.models.var_blocks import MLP_RATIO, NUM_MODULATIONS
from igpt_jax.models.var_config import HEAD_DIM
from igpt_jax.scales import SCALES_256, SCALES_512, num_tokens


def var(
    specs: Specs,
    *,
    scales: Sequence[int] | None = None,
    num_heads: int | None = None,
    **overrides: Any,
) -> Layout:
    """VAR's Transformer, with one class projection a block or one for all.

    Args:
        specs: the checkpoint's arrays.
        scales: tokens a side of each map; None for those published for 256 or 512 pixels.
        num_heads: needed only of uploads without `scale_mul_1H11`, whose queries and keys are not
            normalised, and only if a head has not the published 64 channels.
        overrides: other fields of `VARConfig`.
    """
    kind = "var"
    embed_dim, code_dim = shape_of(specs, "word_embed.weight", 2, kind)
    num_layers = count_layers(specs, "blocks.")
    temperature = "blocks.0.attn.scale_mul_1H11"
    if temperature in specs:
        num_heads = shape_of(specs, temperature, 4, kind)[1]
    elif num_heads is None:
        num_heads = embed_dim // HEAD_DIM
    check_head_dim(kind, embed_dim, num_heads)
    fields: dict[str, Any] = {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "embed_dim": embed_dim,
        "scales": _scales(shape_of(specs, "pos_1LC", 3, kind)[1], scales),
        "vocab_size": shape_of(specs, "head.weight", 2, kind)[0],
        "code_dim": code_dim,
        "num_classes": shape_of(specs, "class_emb.weight", 2, kind)[0] - 1,  # the last is null
        "shared_ada_ln": "shared_ada_lin.1.weight" in specs,
        "qk_l2_norm": temperature in specs,
    }
    config = VARConfig(**(fields | overrides))
    return Layout(
        VAR(config),
        _sources(config),
        _shapes(config),
        r"lvl_1L|attn_bias_for_masking|blocks\.\d+\.attn\.zero_k_bias",
    )


def _scales(seq_len: int, scales: Sequence[int] | None) -> tuple[int, ...]:
    known = (SCALES_256, SCALES_512) if scales is None else (tuple(scales),)
    for candidate in known:
        if num_tokens(candidate) == seq_len:
            return candidate
    raise UserError(
        f"var: expected scales of {' or '.join(str(num_tokens(one)) for one in known)} tokens, got "
        f"a checkpoint of {seq_len}; pass scales=(1, ..., N) that have so many"
    )


def _sources(config: VARConfig) -> dict[str, Source]:
    layers, heads, dim = config.num_layers, config.num_heads, config.embed_dim
    layer = partial(per_layer, num_layers=layers)

    def rows(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, dim)

    def linear(ours: str, theirs: str, source: Any) -> dict[str, Source]:
        return {
            f"{ours}/kernel": source(f"{theirs}.weight", build=transposed),
            f"{ours}/bias": source(f"{theirs}.bias"),
        }

    def modulation(ours: str, theirs: str, source: Any) -> dict[str, Source]:
        return {
            f"{ours}/kernel": source(f"{theirs}.weight", build=split_parts),
            f"{ours}/bias": source(f"{theirs}.bias", build=rows),
        }

    attention, qkv = "blocks/attention", "blocks.{}.attn.mat_qkv.weight"
    sources = {
        "class_embedding": one("class_emb.weight"),
        "start_embedding": one("pos_start", rows),
        "scale_embedding": one("lvl_embed.weight"),
        "position_embedding": one("pos_1LC", rows),
        **linear("code_embedding", "word_embed", one),
        f"{attention}/query/kernel": layer(qkv, build=split_heads(heads, 0, 3)),
        f"{attention}/query/bias": layer("blocks.{}.attn.q_bias", build=split_heads_bias(heads)),
        f"{attention}/key/kernel": layer(qkv, build=split_heads(heads, 1, 3)),
        f"{attention}/value/kernel": layer(qkv, build=split_heads(heads, 2, 3)),
        f"{attention}/value/bias": layer("blocks.{}.attn.v_bias", build=split_heads_bias(heads)),
        f"{attention}/out/kernel": layer("blocks.{}.attn.proj.weight", build=merge_heads(heads)),
        f"{attention}/out/bias": layer("blocks.{}.attn.proj.bias"),
        **linear("blocks/mlp_up", "blocks.{}.ffn.fc1", layer),
        **linear("blocks/mlp_down", "blocks.{}.ffn.fc2", layer),
        **modulation("head_modulation", "head_nm.ada_lin.1", one),
        **linear("head", "head", one),
    }
    if config.qk_l2_norm:
        name = "blocks.{}.attn.scale_mul_1H11"
        sources[f"{attention}/log_scale"] = layer(name, build=np.ravel)
    if config.shared_ada_ln:
        sources |= modulation("shared_modulation", "shared_ada_lin.1", one)
        sources["blocks/modulation_offset"] = layer("blocks.{}.ada_gss", build=rows)
    else:
        sources |= modulation("blocks/modulation", "blocks.{}.ada_lin.1", layer)
    return sources


def _shapes(config: VARConfig) -> dict[str, tuple[int, ...]]:
    dim, hidden = config.embed_dim, MLP_RATIO * config.embed_dim

    def linear(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    shapes: dict[str, tuple[int, ...]] = {
        "class_emb.weight": (config.num_classes + 1, dim),
        "pos_start": (1, 1, dim),
        "lvl_embed.weight": (len(config.scales), dim),
        "pos_1LC": (1, config.seq_len, dim),
        **linear("word_embed", config.code_dim, dim),
        **linear("head_nm.ada_lin.1", dim, 2 * dim),
        **linear("head", dim, config.vocab_size),
    }
    if config.shared_ada_ln:
        shapes |= linear("shared_ada_lin.1", dim, NUM_MODULATIONS * dim)
    for index in range(config.num_layers):
        block = f"blocks.{index}"
        shapes |= {
            f"{block}.attn.mat_qkv.weight": (3 * dim, dim),
            f"{block}.attn.q_bias": (dim,),
            f"{block}.attn.v_bias": (dim,),
            **linear(f"{block}.attn.proj", dim, dim),
            **linear(f"{block}.ffn.fc1", dim, hidden),
            **linear(f"{block}.ffn.fc2", hidden, dim),
        }
        if config.qk_l2_norm:
            shapes[f"{block}.attn.scale_mul_1H11"] = (1, config.num_heads, 1, 1)
        if config.shared_ada_ln:
            shapes[f"{block}.ada_gss"] = (1, 1, NUM_MODULATIONS, dim)
        else:
            shapes |= linear(f"{block}.ada_lin.1", dim, NUM_MODULATIONS * dim)
    return shapes

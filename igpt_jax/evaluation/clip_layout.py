"""Hugging Face's CLIP: which of its arrays becomes which of our parameters.

Facts: huggingface/transformers `models/clip/modeling_clip.py`.
"""

from typing import Final

import numpy as np

from igpt_jax.evaluation.clip import CLIP, CLIPConfig
from igpt_jax.evaluation.clip_blocks import TowerConfig
from igpt_jax.interop.layouts.base import (
    Layout,
    Source,
    conv_kernel,
    merge_heads,
    one,
    per_layer,
    split_heads,
    split_heads_bias,
    transposed,
)

_IGNORED: Final = r"(text|vision)_model\.embeddings\.position_ids"


def clip_layout(config: CLIPConfig) -> Layout:
    """The layout of `CLIPModel`."""
    sources = {
        "logit_scale": one("logit_scale"),
        "image_projection/kernel": one("visual_projection.weight", transposed),
        "text_projection/kernel": one("text_projection.weight", transposed),
        "image_tower/class_embedding": one("vision_model.embeddings.class_embedding"),
        "image_tower/patch_embedding/kernel": one(
            "vision_model.embeddings.patch_embedding.weight", conv_kernel
        ),
        "text_tower/token_embedding": one("text_model.embeddings.token_embedding.weight"),
        **_norm("image_tower/pre_norm", "vision_model.pre_layrnorm"),  # so it is spelt
        **_norm("image_tower/post_norm", "vision_model.post_layernorm"),
        **_norm("text_tower/post_norm", "text_model.final_layer_norm"),
        **_tower_sources("image_tower", "vision_model", config.image),
        **_tower_sources("text_tower", "text_model", config.text),
    }
    return Layout(CLIP(config), sources, _shapes(config), _IGNORED)


def _norm(ours: str, theirs: str) -> dict[str, Source]:
    return {f"{ours}/scale": one(f"{theirs}.weight"), f"{ours}/bias": one(f"{theirs}.bias")}


def _tower_sources(ours: str, theirs: str, config: TowerConfig) -> dict[str, Source]:
    """The positions and the blocks of a tower."""
    layer, count, heads = f"{theirs}.encoder.layers.{{}}.", config.num_layers, config.num_heads
    block = f"{ours}/transformer/blocks/"
    places = one(f"{theirs}.embeddings.position_embedding.weight")
    sources = {f"{ours}/position_embedding": places}
    for norm, name in {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}.items():
        sources[f"{block}{norm}/scale"] = per_layer(f"{layer}{name}.weight", count)
        sources[f"{block}{norm}/bias"] = per_layer(f"{layer}{name}.bias", count)
    builds = {
        "attention/query": ("self_attn.q_proj", split_heads(heads), split_heads_bias(heads)),
        "attention/key": ("self_attn.k_proj", split_heads(heads), split_heads_bias(heads)),
        "attention/value": ("self_attn.v_proj", split_heads(heads), split_heads_bias(heads)),
        "attention/out": ("self_attn.out_proj", merge_heads(heads), np.asarray),
        "mlp/up": ("mlp.fc1", transposed, np.asarray),
        "mlp/down": ("mlp.fc2", transposed, np.asarray),
    }
    for dense, (name, kernel, bias) in builds.items():
        sources[f"{block}{dense}/kernel"] = per_layer(f"{layer}{name}.weight", count, kernel)
        sources[f"{block}{dense}/bias"] = per_layer(f"{layer}{name}.bias", count, bias)
    return sources


def _shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every published array."""
    image, text, size = config.image.embed_dim, config.text.embed_dim, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "visual_projection.weight": (config.projection_dim, image),
        "text_projection.weight": (config.projection_dim, text),
        "vision_model.embeddings.class_embedding": (image,),
        "vision_model.embeddings.patch_embedding.weight": (image, 3, size, size),
        "vision_model.embeddings.position_embedding.weight": (1 + config.num_patches, image),
        "text_model.embeddings.token_embedding.weight": (config.vocab_size, text),
        "text_model.embeddings.position_embedding.weight": (config.text_len, text),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= _dense(f"vision_model.{norm}", image)
    shapes |= _dense("text_model.final_layer_norm", text)
    for tower, each in (("vision_model", config.image), ("text_model", config.text)):
        dim, mlp = each.embed_dim, each.mlp_dim
        for index in range(each.num_layers):
            layer = f"{tower}.encoder.layers.{index}."
            for name in ("layer_norm1", "layer_norm2"):
                shapes |= _dense(layer + name, dim)
            for name in "qkv":
                shapes |= _dense(f"{layer}self_attn.{name}_proj", dim, dim)
            shapes |= _dense(layer + "self_attn.out_proj", dim, dim)
            shapes |= _dense(layer + "mlp.fc1", mlp, dim) | _dense(layer + "mlp.fc2", dim, mlp)
    return shapes


def _dense(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """A weight and the bias of its first axis."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

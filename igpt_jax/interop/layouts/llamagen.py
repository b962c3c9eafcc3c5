"""LlamaGen's GPT, of classes and of texts.

Facts: FoundationVision/LlamaGen `autoregressive/models/gpt.py`.
"""

from typing import Any, Final

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
    transposed,
)
from igpt_jax.models.gpt import GPT, GPTConfig

# Channels -> heads: Sun et al. 2024, table 1, and the code's further sizes.
_PUBLISHED_HEADS: Final = {
    768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32,
}  # fmt: skip


def llamagen_gpt(
    specs: Specs,
    *,
    num_heads: int | None = None,
    grid_shape: tuple[int, int] | list[int] = (16, 16),
    **overrides: Any,
) -> Layout:
    """LlamaGen's class-conditional or text-conditional GPT, told apart by its arrays.

    The weights do not know the resolution: a model of 384 pixels has the grid (24, 24).

    Args:
        specs: the checkpoint's arrays.
        num_heads: query heads; known for the published widths.
        grid_shape: rows and columns of tokens.
        overrides: other fields of `GPTConfig`.
    """
    kind = "llamagen-gpt"
    vocab_size, dim = shape_of(specs, "tok_embeddings.weight", 2, kind)
    hidden = shape_of(specs, "layers.0.feed_forward.w1.weight", 2, kind)[0]
    num_layers = count_layers(specs, "layers.")
    heads = _PUBLISHED_HEADS.get(dim) if num_heads is None else num_heads
    if heads is None:
        raise UserError(
            f"{kind}: expected num_heads, as {dim} channels are no published size; pass num_heads=N"
        )
    check_head_dim(kind, dim, heads)
    shapes = _shapes(dim, hidden, num_layers, vocab_size)
    sources = _sources(num_layers, heads)
    fields: dict[str, Any] = {}
    if "cls_embedding.uncond_embedding" in specs:
        text_len, text_dim = shape_of(specs, "cls_embedding.uncond_embedding", 2, kind)
        fields |= {"text_len": text_len, "text_dim": text_dim}
        shapes |= {
            "cls_embedding.uncond_embedding": (text_len, text_dim),
            "cls_embedding.cap_proj.fc1.weight": (dim, text_dim),
            "cls_embedding.cap_proj.fc2.weight": (dim, dim),
        }
        sources |= {
            "prefix/null_features": one("cls_embedding.uncond_embedding"),
            "prefix/up/kernel": one("cls_embedding.cap_proj.fc1.weight", transposed),
            "prefix/out/kernel": one("cls_embedding.cap_proj.fc2.weight", transposed),
        }
    else:
        table = "cls_embedding.embedding_table.weight"
        rows, _ = shape_of(specs, table, 2, kind)
        fields["num_classes"] = rows - 1  # the last row is the null class
        shapes[table] = (rows, dim)
        sources["prefix/embedding_0"] = one(table)
    fields |= {
        "vocab_size": vocab_size,
        "grid_shape": tuple(grid_shape),
        "num_layers": num_layers,
        "num_heads": heads,
        "embed_dim": dim,
        "mlp_dim": hidden,
        "prefix_rotation": "zero",
    }
    return Layout(GPT(GPTConfig(**(fields | overrides))), sources, shapes, r"freqs_cis|causal_mask")


def _sources(num_layers: int, num_heads: int) -> dict[str, Source]:
    def layer(name: str, *build: Any) -> Source:
        return per_layer(f"layers.{{}}.{name}.weight", num_layers, *build)

    return {
        "token_embedding": one("tok_embeddings.weight"),
        "norm/scale": one("norm.weight"),
        "head": one("output.weight", transposed),
        "blocks/attention/query/kernel": layer("attention.wqkv", split_heads(num_heads, 0, 3)),
        "blocks/attention/key/kernel": layer("attention.wqkv", split_heads(num_heads, 1, 3)),
        "blocks/attention/value/kernel": layer("attention.wqkv", split_heads(num_heads, 2, 3)),
        "blocks/attention/out/kernel": layer("attention.wo", merge_heads(num_heads)),
        "blocks/attention_norm/scale": layer("attention_norm"),
        "blocks/mlp/gate/kernel": layer("feed_forward.w1", transposed),
        "blocks/mlp/up/kernel": layer("feed_forward.w3", transposed),
        "blocks/mlp/down/kernel": layer("feed_forward.w2", transposed),
        "blocks/mlp_norm/scale": layer("ffn_norm"),
    }


def _shapes(dim: int, hidden: int, num_layers: int, vocab_size: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (vocab_size, dim),
        "norm.weight": (dim,),
        "output.weight": (vocab_size, dim),
    }
    for i in range(num_layers):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (3 * dim, dim),
            f"layers.{i}.attention.wo.weight": (dim, dim),
            f"layers.{i}.feed_forward.w1.weight": (hidden, dim),
            f"layers.{i}.feed_forward.w3.weight": (hidden, dim),
            f"layers.{i}.feed_forward.w2.weight": (dim, hidden),
            f"layers.{i}.attention_norm.weight": (dim,),
            f"layers.{i}.ffn_norm.weight": (dim,),
        }
    return shapes

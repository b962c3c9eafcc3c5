"""Checkpoints of the published sizes, of which only names and shapes are made."""

import math

import jax
import jax.numpy as jnp
import pytest

from igpt_jax.interop.conversion import find_layout
from igpt_jax.interop.layouts.base import names_of
from igpt_jax.parameters import abstract_params, flatten

DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

# Channels, layers, channels of the feed-forward layer, parameters: LlamaGen's code and table 1.
LLAMAGEN = {
    "B": (768, 12, 2_048, 110_888_448),
    "L": (1_024, 24, 2_816, 342_910_976),
    "XL": (1_280, 36, 3_584, 774_699_520),
    "XXL": (1_536, 48, 4_096, 1_410_972_672),
    "XXXL": (2_560, 48, 6_912, 3_893_027_840),
    "1B": (2_048, 22, 5_632, 1_199_616_000),
    "3B": (3_200, 24, 8_704, 3_096_659_200),
    "7B": (4_096, 32, 11_008, 6_614_589_440),
}


def specs(shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}


def llamagen(dim, layers, hidden, condition):
    shapes = {
        "tok_embeddings.weight": (16_384, dim),
        "norm.weight": (dim,),
        "output.weight": (16_384, dim),
        **condition,
    }
    for i in range(layers):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (3 * dim, dim),
            f"layers.{i}.attention.wo.weight": (dim, dim),
            f"layers.{i}.feed_forward.w1.weight": (hidden, dim),
            f"layers.{i}.feed_forward.w2.weight": (dim, hidden),
            f"layers.{i}.feed_forward.w3.weight": (hidden, dim),
            f"layers.{i}.attention_norm.weight": (dim,),
            f"layers.{i}.ffn_norm.weight": (dim,),
        }
    return specs(shapes)


def count(layout):
    shapes = abstract_params(layout.module, placement=DEVICE)
    assert set(flatten(shapes)) == set(layout.sources)
    assert set(names_of(layout.sources)) == set(layout.shapes)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("size", LLAMAGEN)
def test_llamagen_of_classes(size):
    dim, layers, hidden, parameters = LLAMAGEN[size]
    table = {"cls_embedding.embedding_table.weight": (1_001, dim)}
    layout = find_layout(llamagen(dim, layers, hidden, table), "llamagen-gpt")
    assert count(layout) == parameters
    assert layout.module.config.num_classes == 1_000
    if size == "3B":
        assert layout.module.config.head_dim == 100


def test_llamagen_of_texts():
    dim, layers, hidden, _ = LLAMAGEN["XL"]
    condition = {
        "cls_embedding.uncond_embedding": (120, 2_048),
        "cls_embedding.cap_proj.fc1.weight": (dim, 2_048),
        "cls_embedding.cap_proj.fc2.weight": (dim, dim),
    }
    layout = find_layout(
        llamagen(dim, layers, hidden, condition), "llamagen-gpt", grid_shape=(32, 32)
    )
    # The null features are a buffer there, which the published count leaves out.
    assert count(layout) == 777_678_080 + 120 * 2_048
    assert layout.module.config.num_slots == 120 + 1_024 - 1


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "parameters"),
    [(512, 24, 8, 76_571_648), (1_024, 36, 8, 455_157_760), (1_536, 48, 16, 1_362_250_752)],
)
def test_imagegpt_in_both_layouts(dim, layers, heads, parameters):
    shapes = {"transformer.wte.weight": (513, dim), "transformer.wpe.weight": (1_024, dim),
              "transformer.ln_f.weight": (dim,), "lm_head.weight": (512, dim)}  # fmt: skip
    tf = {"model/wte": (512, dim), "model/wpe": (1_024, dim), "model/sos": (dim,),
          "model/wtet": (512, dim), "model/ln_f/g": (dim,), "model/wte/Adam": (512, dim),
          "global_step": ()}  # fmt: skip
    for i in range(layers):
        root = f"transformer.h.{i}"
        shapes |= {
            f"{root}.ln_1.weight": (dim,), f"{root}.ln_2.weight": (dim,),
            f"{root}.attn.c_attn.weight": (dim, 3 * dim), f"{root}.attn.c_proj.weight": (dim, dim),
            f"{root}.mlp.c_fc.weight": (dim, 4 * dim), f"{root}.mlp.c_proj.weight": (4 * dim, dim),
            f"{root}.attn.bias": (1, 1, 1_024, 1_024), f"{root}.attn.masked_bias": (),
        }  # fmt: skip
        tf |= {
            f"model/h{i}/ln_1/g": (dim,), f"model/h{i}/ln_2/g": (dim,),
            f"model/h{i}/mlp/c_fc/w": (dim, 4 * dim), f"model/h{i}/mlp/c_proj/w": (4 * dim, dim),
            **{f"model/h{i}/attn/{name}": (heads, dim // heads, dim)
               for name in ("q_proj", "k_proj", "v_proj", "c_proj")},
        }  # fmt: skip
    for kind, given in (("imagegpt", shapes), ("imagegpt-tf", tf)):
        layout = find_layout(specs(given), kind)
        assert layout.module.config.num_heads == heads
        shape = abstract_params(layout.module, placement=DEVICE)
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shape)) == parameters
        assert set(flatten(shape)) == set(layout.sources)

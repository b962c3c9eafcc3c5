"""Small checkpoints in published layouts, of random arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.interop.conversion import LAYOUTS
from igpt_jax.interop.safetensors_file import write_safetensors

T5_DIM = 16

# What tells the size of each model; the layout then says all other names and shapes.
SIZES = {
    "llamagen-gpt": {
        "tok_embeddings.weight": (16, 24), "layers.1.feed_forward.w1.weight": (32, 24),
        "layers.0.feed_forward.w1.weight": (32, 24),
        "cls_embedding.embedding_table.weight": (11, 24),
    },
    "llamagen-text": {
        "tok_embeddings.weight": (16, 24), "layers.0.feed_forward.w1.weight": (32, 24),
        "cls_embedding.uncond_embedding": (8, T5_DIM),
    },
    "llamagen-vq": {
        "encoder.conv_in.weight": (32, 3, 3, 3), "quantize.embedding.weight": (16, 4),
        "encoder.conv_blocks.0.res.0.conv1.weight": (32, 32, 3, 3),
        "encoder.conv_blocks.1.res.0.conv1.weight": (32, 32, 3, 3),
        "encoder.conv_blocks.1.attn.0.norm.weight": (32,), "encoder.conv_out.weight": (8, 32, 3, 3),
    },
    "taming-vqgan": {
        "encoder.conv_in.weight": (32, 3, 3, 3), "quantize.embedding.weight": (16, 8),
        "encoder.down.0.block.0.conv1.weight": (32, 32, 3, 3),
        "encoder.down.1.block.0.conv1.weight": (32, 32, 3, 3),
        "encoder.down.1.attn.0.norm.weight": (32,), "encoder.conv_out.weight": (8, 32, 3, 3),
    },
    "janus-vq": {
        "encoder.conv_in.weight": (32, 3, 3, 3), "quantize.embedding.weight": (16, 4),
        "encoder.down.0.block.0.conv1.weight": (32, 32, 3, 3),
        "encoder.down.1.block.0.conv1.weight": (32, 32, 3, 3),
        "encoder.down.1.attn.0.norm.weight": (32,), "encoder.conv_out.weight": (8, 32, 3, 3),
    },
    "taming-gpt": {
        "transformer.tok_emb.weight": (16, 24), "transformer.pos_emb": (1, 16, 24),
        "transformer.blocks.0.mlp.0.weight": (96, 24),
    },
    "imagegpt": {
        "transformer.wte.weight": (17, 24), "transformer.wpe.weight": (16, 24),
        "transformer.h.0.mlp.c_fc.weight": (24, 96), "transformer.h.1.ln_1.weight": (24,),
    },
    "imagegpt-tf": {
        "model/wte": (16, 24), "model/wpe": (16, 24), "model/h0/attn/q_proj": (3, 8, 24),
        "model/h0/mlp/c_fc/w": (24, 96),
    },
    "maskgit-vq": {
        "encoder.conv_in.weight": (32, 3, 3, 3), "quantize.embedding.weight": (16, 8),
        "encoder.down.0.block.0.norm2.weight": (32,), "encoder.down.1.block.0.norm2.weight": (32,),
    },
    "rar": {
        "pos_embed": (1, 1_040, 32), "lm_head.weight": (16, 32),
        "blocks.0.attn.q_norm.weight": (16,), "blocks.0.mlp.fc1.weight": (64, 32),
        "embeddings.weight": (28, 32),
    },
    "var-vq": {
        "encoder.conv_in.weight": (32, 3, 3, 3), "quantize.embedding.weight": (16, 8),
        "encoder.down.0.block.0.conv1.weight": (32, 32, 3, 3),
        "encoder.down.1.block.0.conv1.weight": (32, 32, 3, 3),
    },
    "var": {
        "word_embed.weight": (64, 8), "blocks.0.attn.scale_mul_1H11": (1, 2, 1, 1),
        "class_emb.weight": (11, 64), "head.weight": (16, 64), "pos_1LC": (1, 21, 64),
    },
    "t5-encoder": {
        "shared.weight": (600, T5_DIM),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (8, 2),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (16, T5_DIM),
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": (32, T5_DIM),
    },
}  # fmt: skip

# What shapes cannot tell.
CONFIG = {
    "llamagen-gpt": {"num_heads": 3, "grid_shape": (4, 4)},
    "llamagen-text": {"num_heads": 3, "grid_shape": (4, 4)},
    "llamagen-vq": {"image_size": 8},
    "taming-vqgan": {"image_size": 8},
    "janus-vq": {"image_size": 8},
    "taming-gpt": {"num_heads": 3, "num_classes": 10},
    "imagegpt": {"num_heads": 3},
    "maskgit-vq": {"image_size": 8},
    "var-vq": {"image_size": 8, "scales": (1, 2, 4)},
    "var": {"scales": (1, 2, 4)},
}


def arrays_of(name, dtype=np.float32):
    """The arrays of a small model in a published layout."""
    seed = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in SIZES[name].items()}
    kind = "llamagen-gpt" if name == "llamagen-text" else name
    layout = LAYOUTS[kind](seed, **CONFIG.get(name, {}))
    rng = np.random.default_rng(0)
    return {
        key: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype)
        for key, shape in layout.shapes.items()
    }


def write(path, arrays):
    """Writes arrays as safetensors."""
    specs = {key: jax.ShapeDtypeStruct(a.shape, a.dtype) for key, a in arrays.items()}
    write_safetensors(path, specs, arrays.items(), {"format": "pt"})
    return path

"""The counted arithmetic against XLA's count of the program, and against published formulas."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from igpt_jax.models.flops import forward_flops, training_flops
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.presets import imagegpt, llamagen
from igpt_jax.parameters import generator_inputs


def counted_by_xla(config):
    """Of one example; what is not a matrix product is little in a wide model."""
    gpt = GPT(config)
    inputs = generator_inputs(gpt)
    params = nn.unbox(jax.eval_shape(gpt.init, jax.random.key(0), *inputs))["params"]

    def forward(params, *inputs):
        return gpt.apply({"params": params}, *inputs)

    return jax.jit(forward).lower(params, *inputs).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "sigmoid_gelu", "positions": "learned", "mlp_dim": 1024},
        {"num_kv_heads": 1},
        {"cond_image": True, "num_classes": 0},
    ],
)
def test_as_xla_counts_a_program_of_one_layer(changes):
    """Of one layer, for XLA counts a loop's body once."""
    config = GPTConfig(
        num_layers=1, num_heads=4, embed_dim=512, vocab_size=512, grid_shape=(8, 8), num_classes=3
    )
    config = GPTConfig(**vars(config) | changes)
    np.testing.assert_allclose(forward_flops(config), counted_by_xla(config), rtol=0.05)


@pytest.mark.parametrize("config", [llamagen("B"), llamagen("3B"), imagegpt("L")])
def test_six_operations_a_parameter_and_twelve_for_attention(config):
    """PaLM, appendix B: 6N + 12LHQT a token, N without embeddings; iGPT and LlamaGen have no more.

    Slots are as many as tokens, for the class or start vector stands where the last token would.
    """
    params = jax.eval_shape(GPT(config).init, jax.random.key(0), *generator_inputs(GPT(config)))
    sizes = {
        jax.tree_util.keystr(path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(params)["params"])
        if leaf.ndim > 1
    }
    multiplied = sum(size for name, size in sizes.items() if "kernel" in name or name == "['head']")
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * config.seq_len
    expected = config.seq_len * (6 * multiplied + attention)
    assert training_flops(config) == expected


def test_more_frames_cost_more_than_in_proportion():
    short, long = (llamagen("B", num_frames=count) for count in (1, 4))
    assert training_flops(long) > 4 * training_flops(short)

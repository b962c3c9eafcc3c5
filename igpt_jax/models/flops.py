"""How much arithmetic a GPT's training needs, counted from its shape."""

from igpt_jax.models.gpt_config import GPTConfig

BACKWARD = 2  # matrix products of the backward pass for each of the forward pass


def forward_flops(config: GPTConfig) -> int:
    """Floating-point operations of the matrix products of one example, forward only.

    A product of [a, b] and [b, c] has 2abc. Attention is counted in full, as PaLM does (Chowdhery
    et al. 2022, appendix B), though a causal mask hides half of it. Embeddings, norms, activations
    and the projection of texts are left out.

    Args:
        config: with vocabulary and grid.
    """
    d, k, slots = config.embed_dim, config.head_dim, config.num_slots
    projections = d * k * (2 * config.num_heads + 2 * config.kv_heads)  # queries, out; keys, values
    matrices = 3 if config.activation == "swiglu" else 2
    feed_forward = matrices * d * config.hidden_dim
    attention = 2 * slots * config.num_heads * k  # scores, and the sum of values
    blocks = slots * config.num_layers * (projections + feed_forward + attention)
    return 2 * (blocks + config.num_cells * d * config.head_size)


def training_flops(config: GPTConfig) -> int:
    """Floating-point operations of one example in a train step: forward once, backward twice.

    What a remat policy computes again is not counted: this is the work of model FLOPs utilisation
    (Chowdhery et al. 2022, section 4.1), for a token of a large model 6 operations a parameter
    (Hoffmann et al. 2022, appendix F).
    """
    return (1 + BACKWARD) * forward_flops(config)

"""VAR: a Transformer that predicts all tokens of the next scale at once (Tian et al. 2024).

A slot sees its own scale and those before it. What it is fed is not the token to its left, but the
picture so far, seen at the size of its scale; what it predicts is the token in its own place. So
VAR shares little with the raster GPT: it has no prompt and cannot complete known tokens or fill a
mask, for the token of one cell changes the whole picture; and drawing needs the tokenizer, which
turns the tokens of each scale to the next input. Published training also drops whole residual
branches (stochastic depth), which is not here.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from igpt_jax.dtypes import resolve_dtype
from igpt_jax.models.attention import KVCache
from igpt_jax.models.layers import zeros_init
from igpt_jax.models.var_blocks import NUM_MODULATIONS, VARBlock, modulate, scaled_normal
from igpt_jax.models.var_config import VARConfig, var
from igpt_jax.partitioning import look_up, shard_rows
from igpt_jax.scales import scale_bounds
from igpt_jax.typing import Array, Float, Int

__all__ = ["VAR", "VARConfig", "var"]

HEAD_INIT = 0.02  # published, relative to the spread of other weights


class VAR(nn.Module):
    """Predicts all tokens of a scale from the class and the picture made of the scales before it.

    `params` is its only collection, and the key-value cache is an argument and a return value.
    Slot i predicts token i; slots of scale 0 are fed the class, those of other scales what
    `MultiscaleVQ.next_input` makes of the tokens so far.
    """

    config: VARConfig

    def setup(self) -> None:
        """Declares the parts; parameters of all blocks are stacked on axis 0."""
        config = self.config

        def table(name: str, rows: int) -> Any:
            init = scaled_normal(config, 1.0, None, "embed")
            return self.param(name, init, (rows, config.embed_dim), jnp.float32)

        self.class_embedding = table("class_embedding", config.num_classes + 1)
        self.start_embedding = table("start_embedding", 1)
        self.scale_embedding = table("scale_embedding", len(config.scales))
        self.position_embedding = table("position_embedding", config.seq_len)
        self.code_embedding = nn.Dense(
            config.embed_dim,
            kernel_init=scaled_normal(config, 1.0, None, "embed"),
            bias_init=zeros_init("norm"),
        )
        if config.shared_ada_ln:
            self.shared_modulation = nn.DenseGeneral(
                (NUM_MODULATIONS, config.embed_dim),
                kernel_init=scaled_normal(config, 1.0, "embed", None, "norm"),
                bias_init=zeros_init(None, "norm"),
            )
        self.blocks = nn.scan(
            VARBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        self.head_modulation = nn.DenseGeneral(
            (2, config.embed_dim),
            kernel_init=scaled_normal(config, 0.5, "embed", None, "norm"),
            bias_init=zeros_init(None, "norm"),
        )
        self.head = nn.Dense(
            config.vocab_size,
            kernel_init=scaled_normal(config, HEAD_INIT, "embed", "vocab"),
            bias_init=zeros_init("vocab"),
        )

    def __call__(
        self, inputs: Float[Array, "b l_minus_1 c"], labels: Int[Array, " b"]
    ) -> Float[Array, "b l v"]:
        """Logits of all tokens, given the scales before each.

        Args:
            inputs: of every scale but the first, as `MultiscaleVQ.next_inputs` makes them.
            labels: class ids; `config.num_classes` is the null condition.

        Returns:
            float32 logits; `logits[:, i]` predicts `tokens[:, i]`.
        """
        condition = look_up(self.class_embedding, labels)
        x = jnp.concatenate([self._first(condition), self._embed(inputs, 1)], axis=1)
        hidden, _ = self._blocks(x, condition, None)
        return self._logits(hidden, condition)

    def decode_step(
        self,
        inputs: Float[Array, "b q c"] | None,
        labels: Int[Array, " b"],
        kv_cache: KVCache,
        scale: int,
    ) -> tuple[Float[Array, "b q v"], KVCache]:
        """Appends one scale to the cache of those before it and predicts its tokens.

        Args:
            inputs: of that scale; None for the first, which sees the class alone.
            labels: class ids.
            kv_cache: filled with the scales before.
            scale: its index, static.
        """
        condition = look_up(self.class_embedding, labels)
        start, _ = scale_bounds(self.config.scales)[scale]
        x = self._first(condition) if inputs is None else self._embed(inputs, start)
        hidden, filled = self._blocks(x, condition, kv_cache, scale)
        assert filled is not None
        return self._logits(hidden, condition), filled

    def _first(self, condition: Float[Array, "b d"]) -> Float[Array, "b 1 d"]:
        """The slot of the first scale."""
        x = condition[:, None] + self.start_embedding
        return self._place(x, 0)

    def _embed(self, inputs: Float[Array, "b q c"], start: int) -> Float[Array, "b q d"]:
        return self._place(self.code_embedding(inputs), start)

    def _place(self, x: Float[Array, "b q d"], start: int) -> Float[Array, "b q d"]:
        """Adds what tells the scale and the cell of slots from `start` on."""
        sides = jnp.asarray(self.config.scales)
        scale_of_slot = jnp.repeat(
            jnp.arange(len(sides)), sides**2, total_repeat_length=self.config.seq_len
        )
        place = self.scale_embedding[scale_of_slot] + self.position_embedding
        x = x + place[start : start + x.shape[1]]
        return shard_rows(x.astype(resolve_dtype(self.config.dtype)))

    def _blocks(
        self,
        x: Float[Array, "b q d"],
        condition: Float[Array, "b d"],
        kv_cache: KVCache | None,
        scale: int | None = None,
    ) -> tuple[Float[Array, "b q d"], KVCache | None]:
        config = self.config
        num_slots = config.seq_len if scale is None else scale_bounds(config.scales)[scale][1]
        if config.shared_ada_ln:
            condition = self.shared_modulation(nn.silu(condition))
        layers = jnp.arange(config.num_layers)
        (x, kv_cache), _ = self.blocks((x, kv_cache), layers, condition, num_slots)
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, length=kv_cache.length + x.shape[1])
        return x, kv_cache

    def _logits(
        self, hidden: Float[Array, "b q d"], condition: Float[Array, "b d"]
    ) -> Float[Array, "b q v"]:
        scale, shift = jnp.moveaxis(self.head_modulation(nn.silu(condition)), 1, 0)
        logits = self.head(modulate(hidden.astype(jnp.float32), scale, shift))
        return shard_rows(logits, last_axis="tensor")

"""The GPT over image tokens: iGPT and LlamaGen are two settings of it."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.dtypes import resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.models.attention import CausalSelfAttention, KVCache, Rotation
from igpt_jax.models.cells import caption_first, cell_coordinates, cond_coordinates, of_kind
from igpt_jax.models.conditioning import Condition, Conditions, as_conditions
from igpt_jax.models.gpt_config import GPTConfig
from igpt_jax.models.layers import FeedForward, build_norm, kernel_init
from igpt_jax.models.prefix import build_prefix, embed_prefix
from igpt_jax.models.rotary import rotation
from igpt_jax.partitioning import look_up, shard_rows
from igpt_jax.typing import Array, Bool, Float, Int

__all__ = ["GPT", "GPTConfig"]

REMAT_POLICIES = {
    "full": None,  # keep nothing but the block's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "all_dots": jax.checkpoint_policies.dots_saveable,
}


OUTSIDE = -1  # the coordinate of condition slots, which lie in no cell of the grid


class Block(nn.Module):
    """A pre-norm Transformer block; the residual stream and the cache are its carry."""

    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "b q d"], KVCache | None],
        layer: Int[Array, ""],
        rotation: Rotation | None,
        prefix_mask: Bool[Array, "b p"] | None,
        deterministic: bool,
    ) -> tuple[tuple[Float[Array, "b q d"], KVCache | None], Float[Array, "b d"]]:
        """One layer; `layer` says which slice of the cache is its own.

        Beside the carry it returns the mean of what attention sees of the picture's slots, which
        costs nothing where nobody asks for it.
        """
        config, (x, kv_cache) = self.config, carry
        dtype = resolve_dtype(config.dtype)
        dropout = nn.Dropout(config.residual_dropout, deterministic=deterministic)
        attention = CausalSelfAttention(
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qk_norm=config.norm if config.qk_norm else None,
            norm_epsilon=config.norm_epsilon,
            use_bias=config.use_bias,
            dtype=dtype,
            kernel=config.attention_kernel,
            name="attention",
        )
        norm = build_norm(config.norm, config.norm_epsilon, "attention_norm")
        normed = norm(x)
        pooled = jnp.mean(normed[:, -config.seq_len :], axis=1, dtype=jnp.float32)
        update, kv_cache = attention(normed, rotation, kv_cache, layer, prefix_mask)
        x = x + dropout(update)
        feed_forward = FeedForward(
            config.hidden_dim, config.activation, config.use_bias, dtype, name="mlp"
        )
        norm = build_norm(config.norm, config.norm_epsilon, "mlp_norm")
        x = x + dropout(feed_forward(norm(x)))
        return (shard_rows(x), kv_cache), pooled


class GPT(nn.Module):
    """Predicts each image token from its condition and the tokens before it.

    `params` is its only collection, and the key-value cache is an argument and a return value.
    Slots of the sequence: `p` condition slots, then tokens; the slot before a token predicts it.
    Positions are data: each token carries the coordinates of its cell.
    """

    config: GPTConfig

    def setup(self) -> None:
        """Declares the parts; parameters of all blocks are stacked on axis 0."""
        config = self.config
        block = Block
        if config.remat != "none":
            block = nn.remat(
                Block,
                policy=REMAT_POLICIES[config.remat],
                prevent_cse=False,  # the scan below already keeps the copies apart
                static_argnums=(5,),
            )
        self.token_embedding: Any = self.param(
            "token_embedding",
            kernel_init("vocab", "embed"),
            (config.num_ids, config.embed_dim),
            jnp.float32,
        )
        self.prefix: Any = build_prefix(config)
        if config.positions == "learned":
            self.position_embedding: Any = self.param(
                "position_embedding",
                kernel_init(None, "embed"),
                (config.num_slots, config.embed_dim),
                jnp.float32,
            )
        if config.order == "any":
            self.target_embedding: Any = self.param(
                "target_embedding",
                kernel_init(None, "embed"),
                (config.num_cells, config.embed_dim),
                jnp.float32,
            )
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        self.norm: Any = build_norm(config.norm, config.norm_epsilon, "norm")
        # Zero, as iGPT and LlamaGen start: the first prediction is uniform.
        self.head: Any = self.param(
            "head",
            nn.with_logical_partitioning(nn.initializers.zeros, ("embed", "vocab")),
            (config.embed_dim, config.head_size),
            jnp.float32,
        )

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition = None,
        *,
        order: Int[Array, "#b s_plus_1"] | None = None,
        padding: Int[Array, " b"] | None = None,
        coordinates: Int[Array, "#b s 3"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b s_plus_1 v"]:
        """Logits of tokens 0 to s, given the first s tokens of each picture.

        Args:
            tokens: ids in raster order, or that of `order`; all but the last one for training, or
                fewer.
            condition: class ids, of which `config.num_classes` is the null condition; features
                of texts for models that take texts; `Conditions` for several; None for
                unconditional models.
            order: cells (see `cells`) of the given tokens and of the one after them, of models of
                any order; None for raster order.
            padding: how many of the first cells are padding, where `order` has captions first.
            coordinates: (time, row, column) of each given token; None for those of the order.
            deterministic: no dropout when true.

        Returns:
            float32 logits; `logits[:, i]` predicts `tokens[:, i]`.
        """
        hidden, targets, _, _ = self._sequence(
            tokens, condition, order, padding, coordinates, None, deterministic
        )
        return self._logits(hidden, targets)

    def logits_and_states(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition = None,
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "b s_plus_1 v"], Float[Array, "b s_plus_1 d"]]:
        """Logits as of `__call__`, and what they are read from in each slot: the last norm's."""
        hidden, targets, _, _ = self._sequence(
            tokens, condition, None, None, None, None, deterministic
        )
        return self._logits(hidden, targets), self.norm(hidden)

    def features(
        self, tokens: Int[Array, "b s"], condition: Condition = None
    ) -> Float[Array, "b layers_plus_1 d"]:
        """What each layer knows of a picture (Chen et al. 2020, section 2.4).

        Args:
            tokens: all tokens of a picture but the last one, in raster order.
            condition: as for `__call__`.

        Returns:
            float32; the mean over slots of what enters each block's attention, after its norm, and
            of what enters the head.
        """
        hidden, _, _, pooled = self._sequence(tokens, condition, None, None, None, None, True)
        last = jnp.mean(self.norm(hidden), axis=1, dtype=jnp.float32)
        return jnp.concatenate([jnp.moveaxis(pooled, 0, 1), last[:, None]], axis=1)

    def prefill(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition,
        kv_cache: KVCache,
        order: Int[Array, "#b s_plus_1"] | None = None,
        coordinates: Int[Array, "#b s 3"] | None = None,
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Fills an empty cache with the condition and s >= 0 known tokens; predicts token s."""
        hidden, targets, filled, _ = self._sequence(
            tokens, condition, order, None, coordinates, kv_cache, True
        )
        assert filled is not None
        return self._logits(hidden[:, -1], targets[:, -1]), filled

    def decode_step(
        self,
        tokens: Int[Array, " b"],
        kv_cache: KVCache,
        order: Int[Array, "#b 2"] | None = None,
        coordinates: Int[Array, "#b 1 3"] | None = None,
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Appends one token a row to the cache and predicts the next; `order` is of these two."""
        order = self._order(order, kv_cache.length - self.config.prefix_len, 1)
        if coordinates is None:
            coordinates = self._cells()[order[:, :-1]]
        embedded = self._embed(tokens[:, None], coordinates)
        if self.config.order == "any":
            target = look_up(self.target_embedding, order[:, 1:])
            embedded = embedded + target.astype(embedded.dtype)
        mask = kv_cache.prefix_mask
        hidden, filled, _ = self._blocks(embedded, coordinates, kv_cache, mask, True)
        assert filled is not None
        return self._logits(hidden[:, 0], order[:, 1]), filled

    def _sequence(
        self,
        tokens: Int[Array, "b s"],
        condition: Condition,
        order: Int[Array, "#b s_plus_1"] | None,
        padding: Int[Array, " b"] | None,
        coordinates: Int[Array, "#b s 3"] | None,
        kv_cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[
        Float[Array, "b s_plus_1 d"],
        Int[Array, "#b s_plus_1"],
        KVCache | None,
        Float[Array, "layers b d"],
    ]:
        """Runs the condition and the tokens behind it through the blocks.

        Returns what predicts each token and the one after them, and their cells; the filled cache;
        and what each layer knows of the picture.
        """
        config, asked, (batch_size, s) = self.config, as_conditions(condition), tokens.shape
        check_condition(config, asked)
        order, words = self._order(order, 0, s), 0
        if coordinates is None:
            coordinates = self._cells()[order[:, :-1]]
        if asked.caption is not None:
            words = config.caption_len
            caption, cells, padding = caption_first(config, asked.caption)
            tokens = jnp.concatenate([caption, tokens], axis=1)
            order = jnp.broadcast_to(order, (batch_size, s + 1))
            coordinates = jnp.broadcast_to(coordinates, (batch_size, s, 3))
            coordinates = jnp.concatenate([self._cells()[cells], coordinates], axis=1)
            order = jnp.concatenate([cells, order], axis=1)
        targets = order
        if padding is not None:  # the slot before it all predicts the first cell that is none
            first = jnp.take_along_axis(order, padding[:, None], axis=1)
            targets = jnp.concatenate([first, order[:, 1:]], axis=1)
        lead, lead_coordinates, mask = self._lead(asked, batch_size)
        embedded = self._embed(tokens, coordinates)
        x = jnp.concatenate([lead.astype(embedded.dtype), embedded], axis=1)
        if config.order == "any":
            embedded_targets = look_up(self.target_embedding, targets).astype(x.dtype)
            x = x.at[:, config.prefix_len - 1 :].add(embedded_targets)
        x = shard_rows(self.embed_dropout(x, deterministic=deterministic))
        rows = len(coordinates)
        lead_coordinates = jnp.broadcast_to(lead_coordinates, (rows, *lead_coordinates.shape[1:]))
        coordinates = jnp.concatenate([lead_coordinates, coordinates], axis=1)
        if padding is not None:
            seen = jnp.arange(tokens.shape[1]) >= padding[:, None]
            if mask is None:
                mask = jnp.ones((batch_size, config.prefix_len), bool)
            mask = jnp.concatenate([mask, seen], axis=1)
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, prefix_mask=mask)
        hidden, kv_cache, pooled = self._blocks(x, coordinates, kv_cache, mask, deterministic)
        hidden = hidden[:, config.prefix_len - 1 :]
        if padding is not None:
            is_first = jnp.arange(hidden.shape[1]) == padding[:, None]
            hidden = jnp.where(is_first[..., None], hidden[:, :1], hidden)
        return hidden[:, words:], order[:, words:], kv_cache, pooled

    def _lead(
        self, asked: Conditions, batch_size: int
    ) -> tuple[Float[Array, "b p d"], Int[Array, "1 p 3"], Bool[Array, "b p"] | None]:
        """The slots before all cells, their coordinates, and which of them may be seen."""
        config = self.config
        prefix, mask = embed_prefix(self.prefix, asked, batch_size)
        if config.positions == "learned":
            prefix = prefix + self.position_embedding[: config.prefix_len]
        outside = jnp.full((1, prefix.shape[1], 3), OUTSIDE)
        if asked.image is None:
            return prefix, outside, mask
        image = look_up(self.token_embedding, asked.image.tokens + config.head_size)
        image = jnp.where(asked.image.is_null[:, None, None], 0, image)  # the last slot predicts
        if mask is None:
            mask = jnp.ones(prefix.shape[:2], bool)
        seen = jnp.broadcast_to(~asked.image.is_null[:, None], image.shape[:2])
        inside = jnp.asarray(cond_coordinates(config))[None]
        return (
            jnp.concatenate([prefix, image], axis=1),
            jnp.concatenate([outside, inside], axis=1),
            jnp.concatenate([mask, seen], axis=1),
        )

    def _cells(self) -> Int[Array, "cells 3"]:
        """Coordinates of every cell."""
        return jnp.asarray(cell_coordinates(self.config))

    def _order(
        self, order: Int[Array, "#b s_plus_1"] | None, start: Int[Array, ""] | int, length: int
    ) -> Int[Array, "#b s_plus_1"]:
        """Cells of `length` tokens from token `start` on, and of the token after them."""
        if order is None:
            return (start + jnp.arange(length + 1))[None]
        if self.config.order == "raster":
            raise UserError("order: expected None, as the model was trained in raster order")
        return order

    def _embed(
        self, tokens: Int[Array, "b s"], coordinates: Int[Array, "#b s 3"]
    ) -> Float[Array, "b s d"]:
        embedded = look_up(self.token_embedding, tokens)
        if self.config.positions == "learned":
            cells = coordinates[..., 1] * self.config.grid_shape[1] + coordinates[..., 2]
            places = look_up(self.position_embedding, self.config.prefix_len + cells)
            embedded = embedded + places
        return embedded.astype(resolve_dtype(self.config.dtype))

    def _blocks(
        self,
        x: Float[Array, "b q d"],
        coordinates: Int[Array, "#b q 3"],
        kv_cache: KVCache | None,
        prefix_mask: Bool[Array, "b p"] | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "b q d"], KVCache | None, Float[Array, "layers b d"]]:
        layers = jnp.arange(self.config.num_layers)
        rotation = self._rotation(coordinates)
        carry = (x, kv_cache)
        carry, pooled = self.blocks(carry, layers, rotation, prefix_mask, deterministic)
        x, kv_cache = carry
        if kv_cache is not None:
            kv_cache = dataclasses.replace(kv_cache, length=kv_cache.length + x.shape[1])
        return x, kv_cache, pooled

    def _rotation(self, coordinates: Int[Array, "#b q 3"]) -> Rotation | None:
        """Rotary angles of the slots."""
        config = self.config
        if config.positions == "learned":
            return None
        cos, sin = rotation(coordinates, config.head_dim, config.rope_base, in_time=config.in_time)
        in_grid = coordinates[..., 1:2] != OUTSIDE
        outside_cos = 1.0 if config.prefix_rotation == "identity" else 0.0
        return jnp.where(in_grid, cos, outside_cos), jnp.where(in_grid, sin, 0.0)

    def _logits(
        self, hidden: Float[Array, "*b d"], cells: Int[Array, "*#b"]
    ) -> Float[Array, "*b v"]:
        """Logits of the tokens in some cells."""
        hidden = self.norm(hidden)
        head = self.head.astype(hidden.dtype)
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        if self.config.caption_len:
            logits = of_kind(self.config, logits, cells)
        return shard_rows(logits, last_axis="tensor")


def check_condition(config: GPTConfig, asked: Conditions) -> None:
    """Refuses a condition of another kind than the model's; a caption may be left out."""
    names = [name for name in vars(asked) if getattr(asked, name) is not None]
    needed = [name for name in config.kinds if name != "caption"]
    if not set(needed) <= set(names) <= set(config.kinds):
        wanted, got = (" and ".join(kinds) or "none" for kinds in (config.kinds, names))
        raise UserError(f"condition: expected {wanted}, as the model was trained with, got {got}")

"""The encoder half of T5 (Raffel et al. 2020) in the sizes of Flan-T5 (Chung et al. 2022).

LlamaGen conditions on its last hidden states (Sun et al. 2024, section 2.2). The shape letter `t`
stands for slots of text.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.dtypes import DTypeName, resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.models.layers import RMSNorm, kernel_init
from igpt_jax.typing import Array, Bool, Float, Int

T5Activation = Literal["gated_gelu", "relu"]

# (channels, channels inside the feed-forward layer, layers, heads): the published config.json.
_FLAN_T5_SIZES: Final = {
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
    "xl": (2048, 5120, 24, 32),
    "xxl": (4096, 10240, 24, 64),
}


@dataclass(frozen=True)
class T5Config:
    """The shape of a T5 encoder.

    Attributes:
        vocab_size: rows of the embedding; published ones have more than the tokenizer has ids.
        embed_dim: channels of the residual stream (`d_model`).
        head_dim: channels of a head (`d_kv`); need not be embed_dim / num_heads.
        num_heads: heads of every layer.
        mlp_dim: channels inside the feed-forward layer (`d_ff`).
        num_layers: Transformer blocks.
        num_buckets: rows of the relative position bias, half of them for each direction.
        max_distance: tokens from which on all distances share the last bucket of a direction.
        norm_epsilon: added to the mean square in every norm.
        activation: "gated_gelu" for T5 1.1 and Flan-T5 (Shazeer 2020, GEGLU with the tanh
            approximation), "relu" without a gate for T5 1.0.
        dtype: compute dtype; parameters, norms and softmax are float32.

    Raises:
        UserError: a number that no encoder has.
    """

    vocab_size: int
    embed_dim: int
    head_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int
    num_buckets: int = 32
    max_distance: int = 128
    norm_epsilon: float = 1e-6
    activation: T5Activation = "gated_gelu"
    dtype: DTypeName = "auto"

    def __post_init__(self) -> None:
        """Refuses shapes that no encoder has."""
        for name in ("vocab_size", "embed_dim", "head_dim", "num_heads", "mlp_dim", "num_layers"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        _check(
            self.num_buckets >= 4 and self.num_buckets % 2 == 0,
            "num_buckets must be even and at least 4",
            self.num_buckets,
        )
        _check(
            self.max_distance > self.num_buckets // 4,
            f"max_distance must be more than num_buckets / 4 = {self.num_buckets // 4}",
            self.max_distance,
        )


def _check(holds: bool, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"T5 config: {expected}, got {got}")


def flan_t5(size: str, **overrides: Any) -> T5Config:
    """Flan-T5 (Chung et al. 2022) small, base, large, xl or xxl; T5 1.1 has the same sizes.

    LlamaGen uses xl.

    Raises:
        UserError: no such size.
    """
    if size not in _FLAN_T5_SIZES:
        raise UserError(f"Flan-T5 size: expected one of {', '.join(_FLAN_T5_SIZES)}, got {size!r}")
    embed_dim, mlp_dim, num_layers, num_heads = _FLAN_T5_SIZES[size]
    published = T5Config(
        vocab_size=32_128,
        embed_dim=embed_dim,
        head_dim=64,
        num_heads=num_heads,
        mlp_dim=mlp_dim,
        num_layers=num_layers,
    )
    return dataclasses.replace(published, **overrides)


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "t t"]:
    """The bucket of every (query, key) pair (Raffel et al. 2020, section 2.1).

    Keys behind the query have the upper half of the buckets. In each half, the first half of the
    buckets is for one distance each, the others widen geometrically up to `max_distance`.
    """
    offset = np.arange(length) - np.arange(length)[:, None]
    distance, half = np.abs(offset), num_buckets // 2
    exact = half // 2
    # float32 as published: it decides on which side of a border a distance falls.
    octaves = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    wide = octaves / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    bucket = np.where(distance < exact, distance, np.minimum(exact + wide.astype(int), half - 1))
    return np.where(offset > 0, half + bucket, bucket)


def left_padded(
    features: Float[Array, "b t d"], mask: Bool[Array, "b t"]
) -> tuple[Float[Array, "b t d"], Bool[Array, "b t"]]:
    """Moves the valid slots of each row to its end, in their order, and zeroes the others.

    LlamaGen is trained on such prefixes: the picture follows the sentence without a gap.

    Returns:
        Features and mask in the new order.
    """
    order = jnp.argsort(mask.astype(jnp.int32), axis=1, stable=True)
    mask = jnp.take_along_axis(mask, order, axis=1)
    features = jnp.take_along_axis(features, order[..., None], axis=1)
    return jnp.where(mask[..., None], features, 0), mask


class T5Attention(nn.Module):
    """Bidirectional attention with a bias by relative position; scores are not scaled."""

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "n t t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        """Attends to every valid slot."""

        def project(name: str) -> Float[Array, "b t n k"]:
            return nn.DenseGeneral(
                (self.num_heads, self.head_dim),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=kernel_init("embed", "heads", "head_dim"),
                name=name,
            )(x)

        query, key, value = project("query"), project("key"), project("value")
        scores = jnp.einsum("bqnk,bsnk->bnqs", query, key, preferred_element_type=jnp.float32)
        lowest = jnp.finfo(jnp.float32).min  # not -inf: a row without a valid slot stays finite
        scores = jnp.where(mask[:, None, None, :], scores + bias, lowest)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kernel_init("heads", "head_dim", "embed"),
            name="out",
        )(jnp.einsum("bnqs,bsnk->bqnk", weights, value))


class T5FeedForward(nn.Module):
    """GEGLU with the tanh approximation (Shazeer 2020), or ReLU without a gate."""

    mlp_dim: int
    activation: T5Activation
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Maps each slot by itself."""

        def dense(features: int, name: str, axes: tuple[str, str]) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=kernel_init(*axes),
                name=name,
            )

        hidden = dense(self.mlp_dim, "up", ("embed", "mlp"))(x)
        if self.activation == "gated_gelu":
            gate = dense(self.mlp_dim, "gate", ("embed", "mlp"))(x)
            hidden = nn.gelu(gate, approximate=True) * hidden
        else:
            hidden = nn.relu(hidden)
        return dense(x.shape[-1], "down", ("mlp", "embed"))(hidden)


class T5Block(nn.Module):
    """A pre-norm Transformer block."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "n t t"], mask: Bool[Array, "b t"]
    ) -> tuple[Float[Array, "b t d"], None]:
        """One layer, as the body of a scan."""
        config, dtype = self.config, resolve_dtype(self.config.dtype)
        attention = T5Attention(config.num_heads, config.head_dim, dtype, name="attention")
        norm = RMSNorm(config.norm_epsilon, name="attention_norm")
        x = x + attention(norm(x), bias, mask)
        mlp = T5FeedForward(config.mlp_dim, config.activation, dtype, name="mlp")
        x = x + mlp(RMSNorm(config.norm_epsilon, name="mlp_norm")(x))
        return x, None


class T5Encoder(nn.Module):
    """Text ids to features. `params` is its only collection; it draws no dropout.

    Parameters of all blocks are stacked on axis 0; the bias by relative position is one for all.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        """The last hidden states, after the final norm, in the compute dtype.

        Args:
            tokens: text ids, see `igpt_jax.text.tokenizer`.
            mask: true where there is text; the others are attended to by none, and what is
                returned for them means nothing.
        """
        config = self.config
        table: Any = self.param(
            "token_embedding",
            kernel_init("vocab", "embed"),
            (config.vocab_size, config.embed_dim),
            jnp.float32,
        )
        bias_table: Any = self.param(
            "relative_bias",
            kernel_init(None, "heads"),
            (config.num_buckets, config.num_heads),
            jnp.float32,
        )
        buckets = relative_buckets(tokens.shape[1], config.num_buckets, config.max_distance)
        bias = bias_table.astype(jnp.float32)[buckets].transpose(2, 0, 1)
        blocks = nn.scan(
            T5Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, name="blocks")
        x, _ = blocks(table[tokens].astype(resolve_dtype(config.dtype)), bias, mask)
        return RMSNorm(config.norm_epsilon, name="norm")(x)

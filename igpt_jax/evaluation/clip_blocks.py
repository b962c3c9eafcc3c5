"""The Transformer of both of CLIP's towers (Radford et al. 2021, section 2.4)."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from igpt_jax.errors import UserError
from igpt_jax.models.layers import Activation, FeedForward, LayerNorm, kernel_init, zeros_init
from igpt_jax.typing import Array, Float


@dataclass(frozen=True)
class TowerConfig:
    """The shape of a tower's Transformer.

    Attributes:
        embed_dim: channels of the residual stream.
        mlp_dim: channels inside the feed-forward layer.
        num_layers: Transformer blocks.
        num_heads: heads of every block; divides `embed_dim`.
        activation: "sigmoid_gelu", which is OpenAI's "quick_gelu", or the exact "gelu".
        norm_epsilon: added to the variance in every norm.

    Raises:
        UserError: a number that no Transformer has.
    """

    embed_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    activation: Activation = "sigmoid_gelu"
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Refuses shapes that no Transformer has."""
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"CLIP config: expected a number of heads that divides {self.embed_dim} channels, "
                f"got {self.num_heads}; give the config.json published with the weights"
            )


class SelfAttention(nn.Module):
    """Multi-head attention with biases; what a slot sees comes before it if `is_causal`."""

    num_heads: int
    is_causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """Attends to every slot, or to those up to its own."""
        dim = x.shape[-1]

        def project(name: str) -> Float[Array, "b s n k"]:
            return nn.DenseGeneral(
                (self.num_heads, dim // self.num_heads),
                kernel_init=kernel_init("embed", "heads", "head_dim"),
                bias_init=zeros_init("heads", "head_dim"),
                name=name,
            )(x)

        query, key, value = project("query"), project("key"), project("value")
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=self.is_causal)
        return nn.DenseGeneral(
            dim,
            axis=(-2, -1),
            kernel_init=kernel_init("heads", "head_dim", "embed"),
            bias_init=zeros_init("embed"),
            name="out",
        )(attended)


class Block(nn.Module):
    """A pre-norm Transformer block."""

    config: TowerConfig
    is_causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> tuple[Float[Array, "b s d"], None]:
        """One layer, as the body of a scan."""
        config = self.config
        normed = LayerNorm(config.norm_epsilon, name="attention_norm")(x)
        x = x + SelfAttention(config.num_heads, self.is_causal, name="attention")(normed)
        normed = LayerNorm(config.norm_epsilon, name="mlp_norm")(x)
        mlp = FeedForward(config.mlp_dim, config.activation, use_bias=True, name="mlp")
        return x + mlp(normed), None


class Transformer(nn.Module):
    """All blocks; their parameters are stacked on axis 0."""

    config: TowerConfig
    is_causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """The last hidden states, before any norm."""
        blocks: Any = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(self.config, self.is_causal, name="blocks")
        return blocks(x)[0]

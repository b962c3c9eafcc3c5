"""RMSNorm, feed-forward layers and initialisers shared by the Transformer."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.models.products import dot_general
from igpt_jax.typing import Array, Float


def kernel_init(*logical_axes: str | None) -> nn.initializers.Initializer:
    """Normal(0, 0.02), as GPT-2, iGPT and LlamaGen start, with logical axis names for sharding."""
    return nn.with_logical_partitioning(nn.initializers.normal(0.02), logical_axes)


def zeros_init(*logical_axes: str | None) -> nn.initializers.Initializer:
    """Zero, with logical axis names for sharding."""
    return nn.with_logical_partitioning(nn.initializers.zeros, logical_axes)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a scale and no bias (Zhang & Sennrich 2019), in float32.

    iGPT's "layer norm" is the same function: it subtracts no mean and has no bias.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalises the last axis; keeps the dtype of `x`."""
        scale: Any = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
            (x.shape[-1],),
            jnp.float32,
        )
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm with scale and bias (Ba et al. 2016), in float32."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalises the last axis; keeps the dtype of `x`."""
        shape = (x.shape[-1],)
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        scale: Any = self.param("scale", ones, shape, jnp.float32)
        bias: Any = self.param("bias", zeros_init("norm"), shape, jnp.float32)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * scale + bias).astype(x.dtype)


NormName = Literal["rms", "layer"]


def build_norm(kind: NormName, epsilon: float, name: str) -> nn.Module:
    """RMSNorm, or LayerNorm with scale and bias; both compute in float32."""
    if kind == "rms":
        return RMSNorm(epsilon, name=name)
    return LayerNorm(epsilon, name=name)


Activation = Literal["swiglu", "sigmoid_gelu", "gelu"]


class FeedForward(nn.Module):
    """The feed-forward layer: SwiGLU (Shazeer 2020), iGPT's sigmoid GELU or the exact GELU."""

    mlp_dim: int
    activation: Activation
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """Maps each position by itself."""

        def dense(features: int, name: str, axes: tuple[str, str]) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=self.use_bias,
                dtype=self.dtype,
                dot_general=dot_general,
                kernel_init=kernel_init(*axes),
                bias_init=zeros_init(axes[-1]),
                name=name,
            )

        hidden = dense(self.mlp_dim, "up", ("embed", "mlp"))(x)
        if self.activation == "swiglu":
            hidden = nn.silu(dense(self.mlp_dim, "gate", ("embed", "mlp"))(x)) * hidden
        elif self.activation == "gelu":
            hidden = nn.gelu(hidden, approximate=False)
        else:
            hidden = hidden * nn.sigmoid(1.702 * hidden)
        return dense(x.shape[-1], "down", ("mlp", "embed"))(hidden)

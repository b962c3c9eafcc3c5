"""From what a GPT says of every slot to the classes of a picture."""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from igpt_jax.errors import UserError
from igpt_jax.models.layers import RMSNorm, kernel_init, zeros_init
from igpt_jax.typing import Array, Float


@dataclass(frozen=True)
class HeadConfig:
    """How the slots of a picture become one vector.

    Attributes:
        pooling: "mean" (Chen et al. 2020, section 2.3), or "attention": one learned query looks at
            all slots (Lee et al. 2019, section 3.2; Yu et al. 2022, section 3.2).
        num_heads: of the attention.
        dropout: of the vector.
    """

    pooling: Literal["mean", "attention"] = "attention"
    num_heads: int = 6
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is no head."""
        if self.num_heads < 1:
            raise UserError(f"head.num_heads: expected at least 1, got {self.num_heads}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"head.dropout: expected in [0, 1), got {self.dropout}")


class ClassHead(nn.Module):
    """Logits of classes; all 0 before training."""

    config: HeadConfig
    num_classes: int

    @nn.compact
    def __call__(
        self, states: Float[Array, "b s d"], *, deterministic: bool = True
    ) -> Float[Array, "b c"]:
        """Logits, float32, of what stands in all slots."""
        states = states.astype(jnp.float32)
        is_mean = self.config.pooling == "mean"
        pooled = jnp.mean(states, axis=1) if is_mean else self._attend(states)
        pooled = nn.Dropout(self.config.dropout)(pooled, deterministic=deterministic)
        return nn.Dense(
            self.num_classes,
            kernel_init=zeros_init("embed", None),
            bias_init=zeros_init(None),
            name="classes",
        )(pooled)

    def _attend(self, states: Float[Array, "b s d"]) -> Float[Array, "b d"]:
        """What the query finds, and the mean beside it, so that it only learns what is more."""
        heads, dim = self.config.num_heads, states.shape[-1]
        if dim % heads:
            raise UserError(f"head.num_heads: expected a divisor of {dim} channels, got {heads}")

        def dense(name: str) -> nn.DenseGeneral:
            shape = (heads, dim // heads)
            initial = kernel_init("embed", "heads", "head_dim")
            return nn.DenseGeneral(shape, use_bias=False, kernel_init=initial, name=name)

        query: Any = self.param("query", kernel_init("heads", "head_dim"), (heads, dim // heads))
        query = jnp.broadcast_to(query, (len(states), 1, *query.shape))
        found = jax.nn.dot_product_attention(query, dense("keys")(states), dense("values")(states))
        found = found.reshape(len(states), dim)
        return RMSNorm(name="norm")(jnp.mean(states, axis=1) + found)

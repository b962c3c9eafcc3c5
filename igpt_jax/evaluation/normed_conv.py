"""The layer of the networks that metrics take features from, FID's Inception and FVD's I3D."""

from typing import Final, Literal

import flax.linen as nn
from jax import lax

from igpt_jax.typing import Array, Float

_NORM_EPSILON: Final = 1e-3
_NORM_PARAMS: Final = ("scale", "bias", "mean", "variance")
_AXES: Final = "DHW"


class NormedConv(nn.Module):
    """Convolution, batch norm as at inference, ReLU; over two axes or three.

    The statistics of the norm are parameters like the others: nothing here is trained, and an entry
    of the file is an entry of `params`, unchanged.

    Attributes:
        channels: channels of the output.
        kernel_size: along each axis.
        stride: of all axes.
        padding: zeros on either side of each axis; "SAME" for as many as give one value a stride,
            the odd one behind.
    """

    channels: int
    kernel_size: tuple[int, ...]
    stride: int = 1
    padding: tuple[int, ...] | Literal["SAME", "VALID"] = "VALID"

    @nn.compact
    def __call__(self, features: Float[Array, "b ... c"]) -> Float[Array, "b ... channels"]:
        """Transform a feature map."""
        shape = (*self.kernel_size, features.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, bias, mean, variance = (
            self.param(name, initializer, (self.channels,))
            for name, initializer in zip(_NORM_PARAMS, (ones, zeros, zeros, ones), strict=True)
        )
        axes, padding = _AXES[-len(self.kernel_size) :], self.padding
        hidden = lax.conv_general_dilated(
            features,
            kernel,
            (self.stride,) * len(axes),
            padding if isinstance(padding, str) else [(pad, pad) for pad in padding],
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            precision=lax.Precision.HIGHEST,  # metrics must not change with the accelerator
        )
        return nn.relu((hidden - mean) * (scale * lax.rsqrt(variance + _NORM_EPSILON)) + bias)

"""Networks that tell real images from made ones, for the adversarial loss of a tokenizer.

Both are pure: `params` is the only collection. Group and batch statistics are those of the batch
at hand, so real and made images belong in separate calls, as published.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.tokenizers.autoencoder_blocks import MAX_NORM_GROUPS, ConvLayer
from igpt_jax.typing import Array, Float, PRNGKey

PatchNorm: TypeAlias = Literal["group", "batch", "none"]

LEAKY_SLOPE = 0.2
PATCH_KERNEL_SIZE = 4
MAX_PATCH_MULTIPLIER = 8
PATCH_NORM_EPSILON = 1e-5
REFERENCE_SIZE = 256  # the image size that StyleDiscriminatorConfig.base_channels speaks of
FINAL_SIZE = 4  # pixels a side where StyleDiscriminator stops halving
STDDEV_EPSILON = 1e-8

normal_init = nn.initializers.normal(0.02)


def scale_init(
    key: PRNGKey, shape: Sequence[int], dtype: Dtype = jnp.float32
) -> Float[Array, "..."]:
    """Draw a norm's scale from normal(1, 0.02), as pix2pix does."""
    return 1.0 + normal_init(key, tuple(shape), dtype)


@dataclass(frozen=True)
class PatchDiscriminatorConfig:
    """Size of a `PatchDiscriminator`; channels and layers are VQGAN's (and pix2pix's 70x70).

    Attributes:
        base_channels: channels of the first convolution; each next one has twice as many, up to
            8 times.
        num_layers: convolutions of stride 2; 3 looks at patches of 70 pixels a side.
        norm: `batch` as published, over the global batch; `group` (up to 32 groups) does not tie
            the images of a batch together; `none`.
    """

    base_channels: int = 64
    num_layers: int = 3
    norm: PatchNorm = "group"

    def __post_init__(self) -> None:
        if self.base_channels < 1 or self.num_layers < 1:
            raise UserError(
                "expected base_channels and num_layers of a PatchDiscriminator to be at least 1, "
                f"got {self.base_channels} and {self.num_layers}; try 64 and 3"
            )
        if self.norm not in get_args(PatchNorm):
            raise UserError(
                f"expected norm to be one of {', '.join(get_args(PatchNorm))}, got {self.norm}; "
                "try group"
            )

    @property
    def min_image_size(self) -> int:
        """Pixels a side that give one logit; the two last convolutions each take one row."""
        return 3 * 2**self.num_layers

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of each convolution but the last, first to last."""
        powers = (2**index for index in range(self.num_layers + 1))
        return tuple(self.base_channels * min(power, MAX_PATCH_MULTIPLIER) for power in powers)


@dataclass(frozen=True)
class StyleDiscriminatorConfig:
    """Size of a `StyleDiscriminator`.

    At `s` pixels a side there are `base_channels * 256 / s` channels, at most `max_channels`:
    with 64, those of LlamaGen, MaskGIT and StyleGAN2's configuration E (Karras et al. 2020, table
    1); with 128, those of StyleGAN2's configuration F. In between two powers of two `s` is the
    lower one.

    Attributes:
        base_channels: channels at 256 pixels a side.
        max_channels: most channels anywhere; also of the head.
        blur: binomial filter (1, 3, 3, 1) before each halving.
        stddev_group_size: images that the minibatch standard deviation compares (Karras et al.
            2020 take 4); `None` leaves the feature out, as LlamaGen and MaskGIT do.
    """

    base_channels: int = 64
    max_channels: int = 512
    blur: bool = True
    stddev_group_size: int | None = 4

    def __post_init__(self) -> None:
        if self.base_channels < 1 or self.max_channels < 1:
            raise UserError(
                "expected base_channels and max_channels of a StyleDiscriminator to be at least "
                f"1, got {self.base_channels} and {self.max_channels}; try 64 and 512"
            )
        if self.stddev_group_size is not None and self.stddev_group_size < 2:
            raise UserError(
                "expected stddev_group_size to be at least 2 images, or None for off, got "
                f"{self.stddev_group_size}; try 4"
            )

    @property
    def min_image_size(self) -> int:
        """Pixels a side that leave one block."""
        return 2 * FINAL_SIZE

    def channels_at(self, size: int) -> int:
        """Channels at `size` pixels a side."""
        return max(1, min(self.max_channels, self.base_channels * REFERENCE_SIZE // size))


DiscriminatorConfig: TypeAlias = PatchDiscriminatorConfig | StyleDiscriminatorConfig


def _check_size(images: Float[Array, "b h w 3"], config: DiscriminatorConfig) -> None:
    height, width = images.shape[1:3]
    if min(height, width) < config.min_image_size:
        raise UserError(
            f"expected images of at least {config.min_image_size} pixels a side for this "
            f"discriminator, got {height}x{width}; use larger images"
            + (" or fewer num_layers" if isinstance(config, PatchDiscriminatorConfig) else "")
        )


class PatchDiscriminator(ConvLayer):
    """PatchGAN: one logit for each overlapping patch (Isola et al. 2017, section 3.2.2).

    The maths is that of VQGAN's (taming-transformers): convolutions 4x4 with padding 1, of stride
    2 but for the two last, a bias only where no norm follows, leaky ReLU.

    Attributes:
        config: the size.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    config: PatchDiscriminatorConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw"]:
        """Return logits in float32, positive for real, of pixels in [-1, 1].

        Raises:
            UserError: images too small for one logit.
        """
        config = self.config
        _check_size(images, config)
        features = nn.leaky_relu(self._conv(0, config.base_channels, stride=2)(images), LEAKY_SLOPE)
        for index, channels in enumerate(config.layer_channels[1:], start=1):
            stride = 2 if index < config.num_layers else 1
            use_bias = config.norm == "none"
            features = self._conv(index, channels, stride=stride, use_bias=use_bias)(features)
            features = nn.leaky_relu(self._norm(index, features), LEAKY_SLOPE)
        logits = self._conv(config.num_layers + 1, 1)(features)
        return logits[..., 0].astype(jnp.float32)

    def _conv(
        self, index: int, channels: int, *, stride: int = 1, use_bias: bool = True
    ) -> nn.Conv:
        return nn.Conv(
            channels,
            (PATCH_KERNEL_SIZE, PATCH_KERNEL_SIZE),
            strides=stride,
            padding=1,
            use_bias=use_bias,
            kernel_init=normal_init,
            name=f"conv_{index}",
            **self.dtypes,
        )

    def _norm(self, index: int, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        name = f"norm_{index}"
        match self.config.norm:
            case "group":
                return nn.GroupNorm(
                    num_groups=math.gcd(MAX_NORM_GROUPS, features.shape[-1]),
                    epsilon=PATCH_NORM_EPSILON,
                    use_fast_variance=False,
                    scale_init=scale_init,
                    name=name,
                    **self.dtypes,
                )(features)
            case "batch":
                # nn.BatchNorm keeps running averages, a second collection that nobody would read.
                return nn.LayerNorm(
                    reduction_axes=(0, 1, 2),
                    feature_axes=-1,
                    epsilon=PATCH_NORM_EPSILON,
                    use_fast_variance=False,
                    scale_init=scale_init,
                    name=name,
                    **self.dtypes,
                )(features)
            case "none":
                return features


def binomial_blur(
    features: Float[Array, "b h w c"], *, padding: int, stride: int = 1
) -> Float[Array, "b blurred_h blurred_w c"]:
    """Filter rows and columns with (1, 3, 3, 1) / 8 after padding with zeros on every side.

    Sums of shifted copies: a depthwise convolution has a slow gradient on CPUs.
    """
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (padding, padding)
        padded = jnp.pad(features, widths)
        num_places = padded.shape[axis] - 3
        first, second, third, fourth = (
            jax.lax.slice_in_dim(padded, start, start + num_places, stride, axis)
            for start in range(4)
        )
        features = (first + 3 * (second + third) + fourth) / 8
    return features


def append_minibatch_stddev(
    features: Float[Array, "b h w c"], group_size: int
) -> Float[Array, "b h w c_plus_1"]:
    """Append a channel with the standard deviation in a group, the mean over places and channels.

    It shows a discriminator that a generator makes the same image again and again (Karras et al.
    2018, section 3). As in StyleGAN2 image i is of group i modulo the number of groups; a batch
    that does not divide has a few groups with more images, at most `2 * group_size - 1`.
    """
    num_images = features.shape[0]
    num_groups = max(1, num_images // group_size)
    groups = jnp.arange(num_images) % num_groups
    membership = jax.nn.one_hot(groups, num_groups, dtype=jnp.float32)
    shares = membership / jnp.sum(membership, axis=0)

    def group_mean(values: Float[Array, "b h w c"]) -> Float[Array, "num_groups h w c"]:
        return jnp.einsum("bg,bhwc->ghwc", shares, values, precision="highest")

    exact = features.astype(jnp.float32)
    variance = group_mean((exact - group_mean(exact)[groups]) ** 2)
    stddev = jnp.mean(jnp.sqrt(variance + STDDEV_EPSILON), axis=(1, 2, 3))
    channel = jnp.broadcast_to(stddev[groups][:, None, None, None], (*features.shape[:3], 1))
    return jnp.concatenate([features, channel.astype(features.dtype)], axis=-1)


class StyleLayer(ConvLayer, kw_only=True):
    """What the layers of a `StyleDiscriminator` share: convolution and leaky ReLU."""

    def leaky_conv(
        self,
        name: str,
        channels: int,
        features: Float[Array, "b h w c"],
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
    ) -> Float[Array, "b out_h out_w d"]:
        """Apply a convolution and leaky ReLU."""
        convolved = nn.Conv(
            channels,
            (kernel_size, kernel_size),
            strides=stride,
            padding=padding,
            kernel_init=nn.initializers.he_normal(),
            name=name,
            **self.dtypes,
        )(features)
        return nn.leaky_relu(convolved, LEAKY_SLOPE)


class StyleBlock(StyleLayer, kw_only=True):
    """Two 3x3 convolutions that halve height and width, beside a 1x1 shortcut.

    Karras et al. 2020, figure 7 (c). The sum is divided by sqrt(2), so that variance stays.

    Attributes:
        channels: channels of the output.
        blur: binomial filter before the halving, in both branches.
    """

    channels: int
    blur: bool

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"]
    ) -> Float[Array, "b half_h half_w channels"]:
        """Transform a feature map."""
        hidden = self.leaky_conv("conv_0", features.shape[-1], features)
        if self.blur:
            hidden = binomial_blur(hidden, padding=2)
            shortcut = binomial_blur(features, padding=1, stride=2)
        else:
            shortcut = features[:, ::2, ::2]
        padding = 0 if self.blur else 1
        hidden = self.leaky_conv("conv_1", self.channels, hidden, stride=2, padding=padding)
        shortcut = nn.Conv(
            self.channels,
            (1, 1),
            use_bias=False,
            kernel_init=nn.initializers.lecun_normal(),  # no activation follows
            name="shortcut",
            **self.dtypes,
        )(shortcut)
        return (hidden + shortcut) / math.sqrt(2)


class StyleDiscriminator(StyleLayer):
    """StyleGAN2's residual discriminator: one logit an image (Karras et al. 2020, section 4.1).

    Weights start as He et al. 2015 (section 2.2) say, in place of a learning rate equalised at run
    time. LlamaGen and MaskGIT train relatives of it: both take 3x3 in place of 1x1 from pixels;
    MaskGIT halves right after the blur, not in the convolution; LlamaGen has a third convolution
    and blurs with (1, 2, 1), in one branch. The dense layers make the parameters depend on the
    image size.

    Attributes:
        config: the size.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    config: StyleDiscriminatorConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 1 1"]:
        """Return logits in float32, positive for real, of pixels in [-1, 1].

        Raises:
            UserError: images of less than 8 pixels a side.
        """
        config = self.config
        _check_size(images, config)
        num_blocks = (min(images.shape[1:3]) // FINAL_SIZE).bit_length() - 1
        levels = reversed(range(num_blocks + 1))
        channels = [config.channels_at(FINAL_SIZE * 2**level) for level in levels]
        features = self.leaky_conv("from_rgb", channels[0], images, kernel_size=1, padding=0)
        for index, width in enumerate(channels[1:]):
            block = StyleBlock(
                channels=width, blur=config.blur, name=f"block_{index}", **self.dtypes
            )
            features = block(features)
        if config.stddev_group_size is not None:
            features = append_minibatch_stddev(features, config.stddev_group_size)
        features = self.leaky_conv("conv_out", channels[-1], features)
        features = features.reshape(features.shape[0], -1)
        features = nn.Dense(
            channels[-1], kernel_init=nn.initializers.he_normal(), name="dense_0", **self.dtypes
        )(features)
        features = nn.leaky_relu(features, LEAKY_SLOPE)
        logits = nn.Dense(1, name="dense_1", **self.dtypes)(features)
        return logits[:, :, None].astype(jnp.float32)


def build_discriminator(
    config: DiscriminatorConfig, *, dtype: Dtype = jnp.float32, param_dtype: Dtype = jnp.float32
) -> PatchDiscriminator | StyleDiscriminator:
    """Make the discriminator's module; both kinds map `[b h w 3]` to logits `[b gh gw]`."""
    match config:
        case PatchDiscriminatorConfig():
            return PatchDiscriminator(config, dtype=dtype, param_dtype=param_dtype)
        case StyleDiscriminatorConfig():
            return StyleDiscriminator(config, dtype=dtype, param_dtype=param_dtype)

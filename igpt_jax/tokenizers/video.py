"""Causal convolutions over the frames of a video (MAGVIT-v2, Yu et al. 2024, section 3.2).

No frame sees a later one, so that the first frame of a video is encoded as a picture alone is.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from igpt_jax.errors import UserError
from igpt_jax.typing import Array, Float, Leaf, Params

TIME_KERNEL = 3  # frames that one convolution sees: its own and two before
TIME_LAYERS = ("time_downsample", "time_upsample")  # of the video model only


class CausalConv(nn.Module):
    """A convolution over frames, height and width that sees no later frame.

    Before the first frame it sees that frame again. Then every frame of a still video is, with any
    parameters, what a picture of it is; after zeros, the same content would get other codes at the
    start of a video than later.

    It is one 2-D convolution with the time slices of the kernel side by side, whose outputs are
    delayed and added: on a CPU, XLA runs that many times faster than a convolution in three
    dimensions. A picture costs what it costs in a model of pictures.

    Attributes:
        features: channels of the output.
        kernel_size: rows and columns of the kernel.
        strides: stride of rows and columns.
        padding: of rows and columns, before and after.
        time_stride: stride of frames; 2 makes 1 + k frames of 1 + 2k.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0))
    time_stride: int = 1
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b gt gh gw d"]:
        """Transform a video's feature maps."""
        shape = (TIME_KERNEL, *self.kernel_size, video.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        video, kernel, bias = promote_dtype(video, kernel, bias, dtype=self.dtype)
        if video.shape[1] == 1:
            return self._convolve(video, jnp.sum(kernel, axis=0)) + bias
        slices = self._convolve(video, jnp.concatenate([*kernel], axis=-1))
        lags = reversed(range(TIME_KERNEL))
        seen = map(_delayed, jnp.split(slices, TIME_KERNEL, axis=-1), lags)
        return functools.reduce(jnp.add, seen)[:, :: self.time_stride] + bias

    def _convolve(
        self, video: Float[Array, "b t h w c"], kernel: Float[Array, "i j c d"]
    ) -> Float[Array, "b t gh gw d"]:
        """Convolve each frame for itself."""
        b, t, *image_shape = video.shape
        result = jax.lax.conv_general_dilated(
            video.reshape(b * t, *image_shape),
            kernel,
            self.strides,
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return result.reshape(b, t, *result.shape[1:])


def _delayed(video: Float[Array, "b t h w c"], lag: int) -> Float[Array, "b t h w c"]:
    """Show every frame of two or more by `lag` frames later, and the first one until then."""
    first, num_frames = video[:, :1], video.shape[1]
    return jnp.concatenate([first] * lag + [video[:, : num_frames - lag]], axis=1)


def repeat_frames(video: Float[Array, "b t h w c"]) -> Float[Array, "b twice_t h w c"]:
    """Make 1 + 2k frames of 1 + k: repeat each, but the first, which stands for one frame only."""
    return video.repeat(2, axis=1)[:, 1:]


def inflate_params(image_params: Params, video_params: Params) -> Params:
    """Start a video model from an image model (Yu et al. 2024, section 3.2).

    The last time slice of each kernel becomes the image model's kernel, the others zero: each frame
    is treated as a picture. Where the video model halves the number of frames it starts by keeping
    every second one, and where it doubles it by repeating them. Pictures pass as before.

    Args:
        image_params: parameters of the image model.
        video_params: parameters of the video model, or their shapes, as `jax.eval_shape` gives.

    Raises:
        UserError: the two differ in more than time.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(video_params)
    image_leaves, _ = jax.tree_util.tree_flatten_with_path(image_params)
    unused = {_name(path): leaf for path, leaf in image_leaves}
    inflated = []
    for path, wanted in leaves:
        name = _name(path)
        layer = name.split("/")[-2] if "/" in name else ""
        if name in unused:
            inflated.append(_inflated(name, unused.pop(name), wanted))
        elif layer.startswith(TIME_LAYERS):
            inflated.append(_passing(wanted))
        else:
            raise _misfit(name, wanted.shape, "none")
    for name, leaf in unused.items():
        raise _misfit(name, "none", leaf.shape)
    return jax.tree.unflatten(tree, inflated)


def _inflated(name: str, value: Leaf, wanted: Leaf) -> Array:
    value = jnp.asarray(value, wanted.dtype)
    if value.shape == wanted.shape:
        return value
    is_kernel_in_time = len(wanted.shape) == 5
    expected = wanted.shape[1:] if is_kernel_in_time else wanted.shape
    if value.shape != expected:
        raise _misfit(name, expected, value.shape)
    return jnp.zeros(wanted.shape, wanted.dtype).at[-1].set(value)


def _passing(wanted: Leaf) -> Array:
    """Return the kernel or bias of a layer that keeps features as they are."""
    zeros = jnp.zeros(wanted.shape, wanted.dtype)
    if zeros.ndim == 1:
        return zeros
    return zeros.at[-1, 0, 0].set(jnp.eye(wanted.shape[-1], dtype=wanted.dtype))


def _name(path: tuple[object, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _misfit(name: str, expected: object, got: object) -> UserError:
    return UserError(
        f"{name}: expected shape {expected} of the image model, got {got}; make the two configs "
        "equal but for num_frames and temporal_downsample"
    )

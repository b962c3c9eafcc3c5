"""What turns pictures to the features that metrics compare, behind one small protocol.

Here are the published networks; `run_extractors` has what a run itself knows of pictures.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from igpt_jax.errors import UserError
from igpt_jax.evaluation.i3d import check_num_frames, i3d_features
from igpt_jax.evaluation.inception import (
    Activations,
    InceptionWeights,
    class_logits,
    inception_activations,
)
from igpt_jax.programs import in_parts
from igpt_jax.resize import Resize
from igpt_jax.tokenizers.base import tokenizer_hash
from igpt_jax.typing import Array, Params, UInt8

Network: TypeAlias = Literal["inception", "i3d"]
"""The networks whose scores are published: FID's and FVD's."""

_RESIZED_BY: Final = {"pytorch": "PyTorch", "tensorflow": "TensorFlow"}


class Features(NamedTuple):
    """What an extractor says of pictures.

    Attributes:
        pooled: float `[b d]`.
        spatial: float `[b e]`, which tell where something is; None where there are none.
        logits: float `[b classes]`; None of what does not classify.
    """

    pooled: Any
    spatial: Any = None
    logits: Any = None


@runtime_checkable
class Extractor(Protocol):
    """Pictures, or videos, to features."""

    @property
    def name(self) -> str:
        """What features these are, in words; printed with every value."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal ones give equal features."""
        ...

    @property
    def network(self) -> Network | None:
        """The network whose scores others publish (see `score_name`), if it is one of these."""
        ...

    def __call__(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        """The features of pictures of one size, NumPy's."""
        ...


@dataclass(frozen=True)
class InceptionExtractor:
    """The features of FID, of sFID, and the logits of the Inception Score.

    Attributes:
        weights: of the network; without a classifier there are no logits.
        resize: how pictures get to 299 x 299.
        batch_size: pictures at once.
    """

    weights: InceptionWeights
    resize: Resize = "pytorch"
    batch_size: int = 64

    @property
    def name(self) -> str:
        """The network and what resizes for it."""
        return f"FID's Inception, resized as by {_RESIZED_BY[self.resize]}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the parameters."""
        return tokenizer_hash(json.dumps({"resize": self.resize}), self.weights.params)

    @property
    def network(self) -> Network:
        """FID's."""
        return "inception"

    def __call__(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        """The features of pictures.

        Raises:
            UserError: they are videos.
        """
        if images.ndim != 4:
            raise UserError("inception: expected pictures, got videos; take features of videos")
        return extract_in_parts(
            partial(_inception, self.resize, self._placed), self.batch_size, images
        )

    @cached_property
    def _placed(self) -> InceptionWeights:
        return on_all_devices(self.weights)


@partial(jax.jit, static_argnums=0)
def _inception(
    resize: Resize, weights: InceptionWeights, images: UInt8[Array, "b h w 3"]
) -> Features:
    found: Activations = inception_activations(weights.params, images, resize)
    logits = None
    if weights.classifier is not None:
        logits = class_logits(weights.classifier, found.pooled)
    return Features(found.pooled, found.spatial, logits)


@dataclass(frozen=True)
class I3DExtractor:
    """The features of FVD, of videos of one length.

    Attributes:
        params: of the network.
        num_frames: of every video; FVDs of other lengths do not compare.
        resize: how frames get to 224 x 224.
        batch_size: videos at once.
    """

    params: Params
    num_frames: int
    resize: Resize = "tensorflow"
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuses videos that are too short."""
        check_num_frames(self.num_frames)

    @property
    def name(self) -> str:
        """The network, of how many frames, and what resizes for it."""
        by = _RESIZED_BY[self.resize]
        return f"FVD's I3D, {self.num_frames} frames, resized as by {by}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the parameters and of how videos come to them."""
        config = json.dumps({"num_frames": self.num_frames, "resize": self.resize})
        return tokenizer_hash(config, self.params)

    @property
    def network(self) -> Network:
        """FVD's."""
        return "i3d"

    def __call__(self, images: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        """The features of videos.

        Raises:
            UserError: they are pictures, or of another length.
        """
        if images.ndim != 5 or images.shape[1] != self.num_frames:
            raise UserError(
                f"i3d: expected videos of {self.num_frames} frames, got shape {list(images.shape)}"
                "; make an extractor of their length"
            )
        program = partial(_i3d, self.resize, self._placed)
        return extract_in_parts(program, self.batch_size, images)

    @cached_property
    def _placed(self) -> Params:
        return on_all_devices(self.params)


@partial(jax.jit, static_argnums=0)
def _i3d(resize: Resize, params: Params, videos: UInt8[Array, "b t h w 3"]) -> Features:
    return Features(i3d_features(params, videos, resize))


def _devices() -> jax.sharding.Mesh:
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def on_all_devices(arrays: Any) -> Any:
    """Copies of arrays on every device of this process."""
    return jax.device_put(arrays, NamedSharding(_devices(), PartitionSpec()))


def extract_in_parts(
    program: Callable[[Any], Features], batch_size: int, images: UInt8[np.ndarray, "b *t h w 3"]
) -> Features:
    """Features of parts of one size, whose rows are shared by all devices."""
    mesh = _devices()
    rows = NamedSharding(mesh, PartitionSpec("data"))
    size = -(-batch_size // mesh.size) * mesh.size

    def extract(part: UInt8[np.ndarray, "b *t h w 3"]) -> Features:
        return program(jax.device_put(part, rows))

    return in_parts(extract, size, images)

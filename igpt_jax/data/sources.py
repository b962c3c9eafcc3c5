"""Where pictures and videos come from: a configuration and a source for each kind of storage."""

from typing import TypeAlias

from igpt_jax.data.arrays import ArrayConfig, ArraySource
from igpt_jax.data.captioned import CaptionedConfig, CaptionedSource
from igpt_jax.data.card_videos import CardVideosConfig, CardVideoSource
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.examples import Example, Source, Split
from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.pairs import PairsConfig, PairsSource
from igpt_jax.data.tfds_source import TfdsConfig, TfdsSource
from igpt_jax.data.videos import VideoConfig, VideoSource

__all__ = [
    "ArrayConfig",
    "ArraySource",
    "BrokenImageError",
    "CaptionedConfig",
    "CaptionedSource",
    "CardSource",
    "CardVideoSource",
    "CardVideosConfig",
    "CardsConfig",
    "DataConfig",
    "Example",
    "FolderConfig",
    "FolderSource",
    "PairsConfig",
    "PairsSource",
    "Source",
    "Split",
    "TfdsConfig",
    "TfdsSource",
    "VideoConfig",
    "VideoSource",
    "num_frames",
    "open_source",
]

DataConfig: TypeAlias = (
    CardsConfig
    | FolderConfig
    | CaptionedConfig
    | PairsConfig
    | ArrayConfig
    | TfdsConfig
    | VideoConfig
    | CardVideosConfig
)


def num_frames(config: DataConfig) -> int:
    """Frames of each item: 1 for pictures."""
    return getattr(config, "num_frames", 1)


def open_source(config: DataConfig, split: Split) -> Source:
    """Open the pictures of one split.

    Raises:
        UserError: The data is not there, not readable, or has no such split.
    """
    match config:
        case CardsConfig():
            return CardSource(config, split)
        case FolderConfig():
            return FolderSource(config, split)
        case CaptionedConfig():
            return CaptionedSource(config, split)
        case PairsConfig():
            return PairsSource(config, split)
        case VideoConfig():
            return VideoSource(config, split)
        case CardVideosConfig():
            return CardVideoSource(config, split)
        case ArrayConfig():
            return ArraySource(config, split)
        case TfdsConfig():
            return TfdsSource(config, split)

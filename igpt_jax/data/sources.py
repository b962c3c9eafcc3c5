"""Where pictures come from: one configuration type, and one source, for each kind of storage."""

from typing import TypeAlias

from igpt_jax.data.arrays import ArrayConfig, ArraySource
from igpt_jax.data.captioned import CaptionedConfig, CaptionedSource
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.examples import Example, Source, Split
from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.tfds_source import TfdsConfig, TfdsSource

__all__ = [
    "ArrayConfig",
    "ArraySource",
    "BrokenImageError",
    "CaptionedConfig",
    "CaptionedSource",
    "CardSource",
    "CardsConfig",
    "DataConfig",
    "Example",
    "FolderConfig",
    "FolderSource",
    "Source",
    "Split",
    "TfdsConfig",
    "TfdsSource",
    "open_source",
]

DataConfig: TypeAlias = CardsConfig | FolderConfig | CaptionedConfig | ArrayConfig | TfdsConfig


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
        case ArrayConfig():
            return ArraySource(config, split)
        case TfdsConfig():
            return TfdsSource(config, split)

"""Which videos a folder or an archive holds: files, and folders of frames."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from igpt_jax.data.archives import Files
from igpt_jax.data.captioned import CaptionedConfig, read_entries
from igpt_jax.data.folders import is_hidden
from igpt_jax.data.images import PICTURE_EXTENSIONS
from igpt_jax.data.video_files import VIDEO_EXTENSIONS
from igpt_jax.errors import UserError

_ONE_CLASS: Final = "all"
"""Name of the one class of videos without class folders."""


class FoundVideo(NamedTuple):
    """One video that is there.

    Attributes:
        name: Path of the file, or of the folder of frames, below the root.
        frames: Paths of the frames in their order; none for a file.
        title: Name of its class.
        captions: What is said of it, the caption first; may be none.
    """

    name: str
    frames: tuple[str, ...]
    title: str
    captions: tuple[str, ...] = ()


def find_videos(names: Iterable[str]) -> list[FoundVideo]:
    """Sorts files into videos, in the order of their names, and these into classes.

    The class of a video is its topmost folder. Videos beside class folders are left out, as are
    pictures at the top, hidden files and all other files.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        if is_hidden(path):
            continue
        suffix = path.suffix.lower()
        if suffix in VIDEO_EXTENSIONS:
            found[name] = []
        elif suffix in PICTURE_EXTENSIONS and len(path.parts) > 1:
            found[str(path.parent)].append(name)
    has_classes = any(len(PurePosixPath(name).parts) > 1 for name in found)
    videos = []
    for name in sorted(found, key=natural_order):
        top, *below = PurePosixPath(name).parts
        if below or not has_classes:
            frames = tuple(sorted(found[name], key=natural_order))
            videos.append(FoundVideo(name, frames, top if has_classes else _ONE_CLASS))
    return videos


def captioned_videos(
    videos: Sequence[FoundVideo], root: Path, files: Files, config: CaptionedConfig
) -> list[FoundVideo]:
    """Gives videos the captions, and categories if they have some, of a file of captions.

    Returns:
        The videos that the file names, in its order.

    Raises:
        UserError: The file is missing or damaged, or names a video that is not there.
    """
    by_name = {video.name: video for video in videos}
    captions_file = str(PurePosixPath(config.captions_file))
    others = [name for name in files.names if name == captions_file]
    entries = read_entries(root, _Renamed([*by_name, *others], files), config)
    for entry in entries:
        if entry.name not in by_name:
            raise UserError(
                f"{root / captions_file}: expected a video, got {entry.name!r}; remove its line"
            )
    captioned = [by_name[e.name]._replace(captions=e.captions) for e in entries]
    if config.category_key is None:
        return captioned
    return [v._replace(title=e.category) for v, e in zip(captioned, entries, strict=True)]


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key that counts the numbers in a name, so that `2.png` is before `10.png`."""
    parts = re.split(r"([0-9]+)", name)
    numbered = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return [*numbered, (-1, name)]  # `1` and `01` are equal up to here


@dataclass
class _Renamed:
    """Files by other names: a folder of frames is one thing in a file of captions."""

    names: Sequence[str]
    files: Files

    def read(self, name: str) -> bytes:
        return self.files.read(name)

"""A folder, or a zip archive, of videos: files, and folders of their frames."""

import logging
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Final, SupportsIndex

import numpy as np

from igpt_jax.data.archives import open_files
from igpt_jax.data.captioned import CaptionedConfig
from igpt_jax.data.examples import Split, VideoExample, check_index
from igpt_jax.data.found_videos import FoundVideo, captioned_videos, find_videos
from igpt_jax.data.held_out import is_held_out
from igpt_jax.data.images import WHITE, BrokenImageError, decode_image
from igpt_jax.data.paths import expand_path
from igpt_jax.data.video_files import VIDEO_EXTENSIONS, count_frames, read_video
from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8

_logger: Final = logging.getLogger("igpt_jax.data")

_LISTED: Final = 5


@dataclass(frozen=True)
class VideoConfig:
    """Videos in class folders, `class/a.mp4`, or all in one folder (then one class).

    A video is a GIF, MP4 or other video file, or a folder of pictures, its frames in the order of
    their names, with numbers counted: `2.png` before `10.png`. Videos deeper down belong to the
    class of their topmost folder; those beside class folders, pictures at the top, hidden files
    and other files are ignored.

    Each video is cut into clips that do not overlap, from its first frame on. What is left over at
    the end is not used. All frames of a clip must be of one size.

    Attributes:
        path: The folder or zip archive; may hold `~` and variables such as `$IGPT_DATA`.
        num_frames: Frames of a clip.
        frame_stride: Every so manyth frame of a video is taken.
        validation_share: Share of the videos set aside for validation, chosen by a hash of their
            names: the same on every machine, and whatever other videos there are.
        captions_file: A file of captions as in `CaptionedConfig`, which names videos, files or
            folders of frames, relative to its own folder; videos that no line names are ignored.
            None for no captions.
        file_key: The key of a video's name, with `/` between the parts.
        caption_key: The key of its caption.
        category_key: The key of its class, instead of its folder; None for the folders.
        keywords_key: The key of a list of further captions, which lines may lack; None for none.
        background: Colour that transparent frames are laid on, bytes of RGB.
    """

    path: str
    num_frames: int = 8
    frame_stride: int = 1
    validation_share: float = 0.1
    captions_file: str | None = None
    file_key: str = "file"
    caption_key: str = "caption"
    category_key: str | None = None
    keywords_key: str | None = "keywords"
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"VideoConfig.{name}: expected at least 1, got {getattr(self, name)}; change it"
                )
        if self.captions_file is None and self.category_key is not None:
            raise UserError(
                "VideoConfig.category_key: expected a captions_file that has the key, got none; "
                "set VideoConfig.captions_file"
            )
        if not all(0 <= value <= 255 for value in self.background):
            raise UserError(
                "VideoConfig.background: expected three values in 0..255, got "
                f"{self.background}; change it"
            )
        if not 0 <= self.validation_share < 1:
            raise UserError(
                "VideoConfig.validation_share: expected a share in [0, 1), "
                f"got {self.validation_share}; change it"
            )


class VideoSource:
    """The clips of a `VideoConfig`, video after video, in the order of their names or captions.

    Opening it counts the frames of every file of its split. A damaged file then is one item, which
    raises `BrokenImageError`.

    Attributes:
        class_names: The classes, sorted; the label is the position here.
        names: Path of each video below the root.
        num_clips: How many clips each of them has.
        too_short: Videos that are left out, as they have no frames for one clip.
    """

    def __init__(self, config: VideoConfig, split: Split) -> None:
        self._config = config
        self._root = expand_path(config.path)
        self._files = open_files(self._root)
        videos = self._find()
        share = config.validation_share
        chosen = [v for v in videos if is_held_out(v.name, share) == (split == "validation")]
        counts = [self._count_clips(video) for video in chosen]
        counted = list(zip(chosen, counts, strict=True))
        self.too_short: tuple[str, ...] = tuple(v.name for v, count in counted if not count)
        if not any(counts):
            raise UserError(
                f"{self._root}: expected videos of at least {self._reach} frames for {split}, got "
                f"{len(chosen)} of {len(videos)} for it, all too short; change VideoConfig's "
                "num_frames, frame_stride or validation_share"
            )
        self.class_names: tuple[str, ...] = tuple(sorted({video.title for video in videos}))
        self._videos = tuple(video for video, count in counted if count)
        self.names: tuple[str, ...] = tuple(video.name for video in self._videos)
        self.num_clips: tuple[int, ...] = tuple(filter(None, counts))
        self._ends = tuple(accumulate(self.num_clips))
        labels = {title: label for label, title in enumerate(self.class_names)}
        self._labels = tuple(labels[video.title] for video in self._videos)
        self._log(split)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: SupportsIndex, /) -> VideoExample:
        number, clip = self.clip(index)
        video = self._videos[number]
        start = clip * self._config.num_frames * self._config.frame_stride
        frames = range(start, start + self._reach, self._config.frame_stride)
        try:
            clip_frames = self._read(video, frames)
        except BrokenImageError as error:
            raise BrokenImageError(f"{self._root / video.name}: {error}") from error
        example: VideoExample = {"video": clip_frames, "label": self._labels[number]}
        if video.captions:
            example["caption"] = video.captions[0]
        return example

    def __repr__(self) -> str:
        return f"VideoSource({str(self._root)!r}, {len(self.names)} videos, {len(self)} clips)"

    def clip(self, index: SupportsIndex) -> tuple[int, int]:
        """Returns which video the item at `index` is of, and which clip of that video it is."""
        position = check_index(index, len(self))
        number = bisect_right(self._ends, position)
        return number, position - (self._ends[number] - self.num_clips[number])

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """Returns the caption of the video at `index` and then its keywords, each text once."""
        return self._videos[self.clip(index)[0]].captions

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def _reach(self) -> int:
        """How many frames of a video a clip stretches over."""
        return (self._config.num_frames - 1) * self._config.frame_stride + 1

    def _find(self) -> list[FoundVideo]:
        config = self._config
        videos = find_videos(self._files.names)
        if not videos:
            raise UserError(
                f"{self._root}: expected videos ({', '.join(sorted(VIDEO_EXTENSIONS))}) or folders "
                f"of pictures, got none among {len(self._files.names)} files; put the frames of "
                "each video into a folder of its own"
            )
        if config.captions_file is None:
            return videos
        common = CaptionedConfig(
            path=config.path,
            captions_file=config.captions_file,
            file_key=config.file_key,
            caption_key=config.caption_key,
            category_key=config.category_key,
            keywords_key=config.keywords_key,
        )
        return captioned_videos(videos, self._root, self._files, common)

    def _count_clips(self, video: FoundVideo) -> int:
        try:
            count = len(video.frames) or count_frames(self._files.read(video.name))
        except BrokenImageError:
            return 1
        step = self._config.num_frames * self._config.frame_stride
        return 0 if count < self._reach else (count - self._reach) // step + 1

    def _read(self, video: FoundVideo, frames: range) -> UInt8[np.ndarray, "t h w 3"]:
        paper = self._config.background
        if not video.frames:
            return read_video(self._files.read(video.name), frames=frames, paper=paper)
        pictures = []
        for name in video.frames[frames.start : frames.stop : frames.step]:
            try:
                pictures.append(decode_image(self._files.read(name), paper=paper))
            except BrokenImageError as error:
                raise BrokenImageError(f"{PurePosixPath(name).name}: {error}") from error
        sizes = {picture.shape[:2] for picture in pictures}
        if len(sizes) > 1:
            listed = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
            raise BrokenImageError(f"expected frames of one size, got {listed}")
        return np.stack(pictures)

    def _log(self, split: Split) -> None:
        _logger.info(
            "%s: %d clips of %d videos for %s in %d classes",
            self._root, len(self), len(self.names), split, self.num_classes,
        )  # fmt: skip
        if self.too_short:
            _logger.warning(
                "%s: left out %d videos of fewer than %d frames: %s%s",
                self._root, len(self.too_short), self._reach,
                ", ".join(self.too_short[:_LISTED]), " ..." * (len(self.too_short) > _LISTED),
            )  # fmt: skip

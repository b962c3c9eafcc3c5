"""Video files to pixels and back: animated GIF, WebP and PNG by Pillow, MP4 and others by PyAV.

As with pictures, reading gives 8-bit RGB or raises `BrokenImageError`. PyAV is an extra
(`pip install "igpt_jax[video]"`) and is imported only when a file needs it.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from igpt_jax.data.animations import (
    animation_frames,
    check_pixels,
    count_in_animation,
    encode_gif,
    is_animation,
)
from igpt_jax.data.containers import container_frames, count_in_container, encode_mp4, pyav
from igpt_jax.data.images import MAX_PIXELS, WHITE, BrokenImageError
from igpt_jax.errors import UserError
from igpt_jax.grid import image_grid
from igpt_jax.typing import UInt8

MAX_FRAMES: Final = 100_000
"""Most frames that a file may have: about an hour."""

MAX_VIDEO_PIXELS: Final = 4 * MAX_PIXELS
"""Default limit of frames x height x width that are held at once: a GiB of RGB bytes."""

VIDEO_EXTENSIONS: Final = frozenset(
    {".apng", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
)
"""File names with these endings (in lower case) are read as videos."""

VideoFile: TypeAlias = str | os.PathLike[str] | bytes
"""A path, or the content of the whole file."""

_RGB: TypeAlias = tuple[int, int, int]

_MAX_GIF_FPS: Final = 50.0
_MIN_MP4_SIDE: Final = 128  # pixels; below, each gets several of its own


def read_video(
    file: VideoFile,
    *,
    frames: range | None = None,
    max_pixels: int = MAX_VIDEO_PIXELS,
    paper: _RGB = WHITE,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Reads the frames of a video, as they are stored: how long each is shown is left aside.

    Args:
        file: Path, or bytes, of an animated GIF, WebP or PNG, or of MP4, WebM, AVI and the like.
        frames: Which frames, counted from 0, with a positive step; None for all. What lies before
            the last key frame is passed over, so that a piece of a long MP4 is read quickly.
        max_pixels: Largest accepted frames x height x width, checked before they are decoded.
        paper: Colour behind transparent pixels, bytes of RGB.

    Returns:
        Upright frames in a fresh, writable array.

    Raises:
        BrokenImageError: The file is empty, damaged, cut short, too large or no video, or has
            fewer frames than `frames` asks for.
        UserError: There is no such file, or it needs PyAV, which is not installed.
    """
    if frames is not None and (len(frames) == 0 or frames.start < 0 or frames.step < 1):
        raise UserError(f"frames: expected a rising range from 0 on, got {frames}; change it")
    data = _content(file)

    def choose(count: int, height: int, width: int) -> range:
        chosen = _chosen(frames, count)
        check_pixels(len(chosen), height, width, max_pixels)
        return chosen

    with _broken_for(file, data):
        if is_animation(data):
            return _stacked(animation_frames(data, choose, max_pixels, paper), max_pixels)
        return _stacked(container_frames(data, choose), max_pixels)


def count_frames(file: VideoFile) -> int:
    """Counts the frames of a video without decoding them; takes and raises as `read_video`."""
    data = _content(file)
    with _broken_for(file, data):
        if is_animation(data):
            return count_in_animation(data)
        return count_in_container(data)


def write_video(
    path: str | os.PathLike[str],
    video: UInt8[np.ndarray, "t h w 3"],
    fps: float = 8.0,
    *,
    zoom: int | None = None,
    comment: str | None = None,
) -> None:
    """Writes a GIF or an MP4 file, by the ending of its name; see `write_gif` and `write_mp4`.

    Raises:
        UserError: The name ends otherwise, or as these raise.
    """
    match Path(path).suffix.lower():
        case ".gif":
            write_gif(path, video, fps, zoom=zoom or 1, comment=comment)
        case ".mp4":
            write_mp4(path, video, fps, zoom=zoom, comment=comment)
        case other:
            raise UserError(f"{path}: expected a name with .gif or .mp4, got {other!r}; change it")


def check_writable(suffix: str, fps: float) -> None:
    """Refuses what `write_video` would refuse, before there is anything to write.

    Raises:
        UserError: another ending, PyAV is missing, or frames a second out of range.
    """
    if suffix not in (".gif", ".mp4"):
        raise UserError(f"expected a name with .gif or .mp4, got {suffix!r}; change it")
    _check(np.zeros((1, 1, 1, 3), np.uint8), fps, 1)
    if suffix == ".gif":
        _check_gif_fps(fps)
    else:
        pyav()


def _check_gif_fps(fps: float) -> None:
    if fps > _MAX_GIF_FPS:
        raise UserError(f"fps: expected at most {_MAX_GIF_FPS:g} for a GIF, got {fps}; lower it")


def write_gif(
    path: str | os.PathLike[str],
    video: UInt8[np.ndarray, "t h w 3"],
    fps: float = 8.0,
    *,
    zoom: int = 1,
    comment: str | None = None,
) -> None:
    """Writes an endless GIF, whole or not at all.

    Each frame has a palette of its own: up to 256 colours are kept as they are, more are brought
    down to 256 without dither, which would flicker. Frames that repeat are kept.

    Args:
        path: The file; missing folders are made.
        video: The frames.
        fps: Frames a second, at most 50 (browsers slow down faster GIFs). Durations are whole
            hundredths of a second that add up to the right time.
        zoom: Width and height in which a pixel is drawn.
        comment: A text in the file.

    Raises:
        UserError: A value is out of range.
    """
    _check(video, fps, zoom)
    _check_gif_fps(fps)
    content = encode_gif(_zoomed(video, zoom), fps, comment)
    _write_whole(path, lambda temporary: temporary.write_bytes(content))


def write_mp4(
    path: str | os.PathLike[str],
    video: UInt8[np.ndarray, "t h w 3"],
    fps: float = 8.0,
    *,
    zoom: int | None = None,
    comment: str | None = None,
) -> None:
    """Writes an MP4 file that browsers play (H.264, 4:2:0), whole or not at all.

    4:2:0 has one colour for four pixels, which blurs the colours of small pictures; an even `zoom`
    gives each pixel its own. Odd heights and widths repeat their last row or column.

    Args:
        path: The file; missing folders are made.
        video: The frames.
        fps: Frames a second.
        zoom: Width and height in which a pixel is drawn; None for the smallest even one that makes
            the shorter side at least 128, and for 1 where it is so already.
        comment: A text in the file's metadata.

    Raises:
        UserError: A value is out of range, or PyAV is not installed.
    """
    if zoom is None:
        side = min(video.shape[1:3])
        zoom = 1 if side >= _MIN_MP4_SIDE or not side else 2 * math.ceil(_MIN_MP4_SIDE / 2 / side)
    _check(video, fps, zoom)
    pyav()  # told before the work
    frames = _zoomed(video, zoom)
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    frames = np.pad(frames, odd, mode="edge")
    _write_whole(path, lambda temporary: encode_mp4(temporary, frames, fps, comment))


def contact_sheet(
    videos: UInt8[np.ndarray, "b t h w 3"],
) -> UInt8[np.ndarray, "sheet_h sheet_w 3"]:
    """Lays videos out as one picture: a row for each, its frames from left to right."""
    return image_grid(videos.reshape(-1, *videos.shape[2:]), columns=videos.shape[1])


def _content(file: VideoFile) -> bytes:
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        reason = error.strerror or "an error"
        raise UserError(f"{file}: expected a video file, got {reason}; check the path") from error


@contextmanager
def _broken_for(file: VideoFile, data: bytes) -> Iterator[None]:
    """Turns whatever parsers of damaged bytes raise into one line with the file's name."""
    where = "" if isinstance(file, bytes) else f"{os.fspath(file)}: "
    try:
        if not data:
            raise BrokenImageError("the file is empty")
        yield
    except UserError:
        raise
    except BrokenImageError as error:
        raise BrokenImageError(f"{where}{error}") from error.__cause__
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or "cannot be decoded"
        reason = " ".join(reason.split())
        raise BrokenImageError(f"{where}{reason} ({type(error).__name__})") from error


def _stacked(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], max_pixels: int
) -> UInt8[np.ndarray, "t h w 3"]:
    """Collects frames, which must be of one size and, again, not too many."""
    kept: list[np.ndarray] = []
    for frame in frames:
        kept.append(frame)
        if frame.shape != kept[0].shape:
            raise BrokenImageError("the frames are of different sizes")
        height, width, _ = frame.shape
        check_pixels(len(kept), height, width, max_pixels)
    if not kept:
        raise BrokenImageError("there are no frames")
    return np.stack(kept)


def _chosen(frames: range | None, count: int) -> range:
    """The frames to read of those that are there."""
    if count > MAX_FRAMES:
        raise BrokenImageError(f"{count} frames are more than the limit of {MAX_FRAMES}")
    if frames is not None and frames[-1] >= count:
        raise BrokenImageError(f"expected at least {frames[-1] + 1} frames, got {count}")
    return range(count) if frames is None else frames


def _check(video: UInt8[np.ndarray, "t h w 3"], fps: float, zoom: int) -> None:
    if not video.size:
        raise UserError(f"video: expected frames with pixels, got {video.shape}; change it")
    if not 0.01 <= fps <= 1000:
        raise UserError(f"fps: expected 0.01 to 1000 frames a second, got {fps}; change it")
    if zoom < 1:
        raise UserError(f"zoom: expected at least 1, got {zoom}; change it")


def _zoomed(video: UInt8[np.ndarray, "t h w 3"], zoom: int) -> UInt8[np.ndarray, "t zh zw 3"]:
    return video.repeat(zoom, axis=1).repeat(zoom, axis=2)


def _write_whole(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Writes beside the file, then moves: a reader sees the old file or the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)

"""Animated GIF, WebP and PNG, by Pillow."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import numpy as np
from PIL import GifImagePlugin, Image

from igpt_jax.data.images import MAX_PIXELS, BrokenImageError, silence_pillow, to_rgb
from igpt_jax.typing import UInt8

_FORMATS: Final = ("GIF", "WEBP", "PNG")  # Pillow's names
_GIF_COLOURS: Final = 256


def is_animation(data: bytes) -> bool:
    """Whether a file is one of these formats, told by its first bytes."""
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return is_webp or data.startswith((b"GIF87a", b"GIF89a", b"\x89PNG\r\n\x1a\n"))


def animation_frames(
    data: bytes,
    choose: Callable[[int, int, int], range],
    max_pixels: int,
    paper: tuple[int, int, int],
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields chosen frames.

    Args:
        data: The whole file.
        choose: Says which frames, of their number, height and width; may raise.
        max_pixels: Largest accepted frames x height x width. A frame is drawn over those before
            it, so that it holds for all frames up to the last one that is chosen.
        paper: Colour behind transparent pixels, bytes of RGB.

    Raises:
        BrokenImageError: The file is cut short, damaged or too large; besides, whatever Pillow
            raises about damaged bytes.
    """
    with _opened(data) as picture:
        chosen = choose(_num_frames(picture), picture.height, picture.width)
        check_pixels(chosen[-1] + 1, picture.height, picture.width, max_pixels)
        for position in chosen:
            picture.seek(position)
            picture.load()
            yield to_rgb(picture, paper)


def count_in_animation(data: bytes) -> int:
    """Counts the frames without decoding them; raises as `animation_frames`."""
    with _opened(data) as picture:
        return _num_frames(picture)


def check_pixels(count: int, height: int, width: int, max_pixels: int) -> None:
    """Raises `BrokenImageError` when a frame, or all of them, are too large to be decoded."""
    if height * width > MAX_PIXELS or count * height * width > max_pixels:
        raise BrokenImageError(
            f"{count} frames of {width} x {height} pixels are more than the limit of {MAX_PIXELS} "
            f"for one and {max_pixels} for all"
        )


def encode_gif(frames: UInt8[np.ndarray, "t h w 3"], fps: float, comment: str | None) -> bytes:
    """Encodes an endless GIF, with a palette for every frame."""
    pictures = [_with_palette(frame) for frame in frames]
    ends = np.rint(np.arange(len(frames) + 1) * 100 / fps).astype(int).tolist()
    info = {"loop": 0, "comment": comment}
    # Not `Image.save`, which leaves out frames that are as the one before.
    pieces = list(GifImagePlugin.getheader(pictures[0].copy(), info=info)[0])
    for picture, (start, end) in zip(pictures, pairwise(ends), strict=True):
        milliseconds = 10 * (end - start)
        pieces += GifImagePlugin.getdata(
            picture, duration=milliseconds, disposal=1, include_color_table=True
        )
    return b"".join([*pieces, b";"])


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    silence_pillow()
    if data.startswith(b"GIF"):
        _check_gif_end(data)
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        yield picture


def _num_frames(picture: Image.Image) -> int:
    return getattr(picture, "n_frames", 1)


def _check_gif_end(data: bytes) -> None:
    """Raises unless a GIF's blocks lead to its trailer: Pillow takes a cut file for a short one.

    GIF89a specification, sections 18 to 27.
    """
    position = 13 + _colour_table_size(data[10])
    while (kind := data[position]) != ord(";"):
        if kind == ord(","):
            position += 11 + _colour_table_size(data[position + 9])
        elif kind == ord("!"):
            position += 2
        else:
            raise BrokenImageError("damaged between two frames")
        while data[position]:
            position += 1 + data[position]
        position += 1


def _colour_table_size(flags: int) -> int:
    """Bytes of the colour table that the flags of a screen or of a picture announce."""
    return 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0


def _with_palette(frame: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    """A picture with a palette, without loss where 256 colours are enough."""
    colours, indices = np.unique(frame.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > _GIF_COLOURS:
        picture = Image.fromarray(frame)
        return picture.quantize(_GIF_COLOURS, kmeans=1, dither=Image.Dither.NONE)
    picture = Image.fromarray(indices.reshape(frame.shape[:2]).astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return picture

"""Bytes to pixels: one strict decoder for every picture that enters the library.

Whatever the file holds, `decode_image` returns 8-bit RGB or raises `BrokenImageError`: no
other exception leaves it, and no warning of Pillow's.
"""

import io
import warnings
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from igpt_jax.typing import Float, UInt8

MAX_PIXELS: Final = 89_478_485
"""Default limit of width x height: a quarter GiB of RGB bytes, as in Pillow."""

WHITE: Final = (255, 255, 255)

PICTURE_EXTENSIONS: Final = frozenset(
    {
        ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
        ".pgm", ".png", ".apng", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
"""File names with these endings (in lower case) are read as pictures."""

# Only plain raster formats: Pillow would also start Ghostscript for PostScript, and formats
# without a signature (TGA) accept random bytes.
_FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000",
)  # fmt: skip

_ORIENTATION_TAG: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the turn that sets the picture upright (EXIF 2.32, section 4.6.4)."""

_PILLOW_MODULES: Final = r"PIL\."


class BrokenImageError(ValueError):
    """The bytes are no picture that can be decoded; the message is one line."""


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, paper: tuple[int, int, int] = WHITE
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode the (first) picture of a file to upright 8-bit RGB.

    Transparency is composited on `paper`, EXIF orientation is applied, and values deeper than
    8 bits are scaled, never clipped (see `_scale_to_uint8`).

    Args:
        data: The whole file.
        max_pixels: Largest accepted width x height, checked before any pixel is decoded.
        paper: Colour behind transparent pixels, bytes of RGB.

    Returns:
        The pixels in a fresh, writable, contiguous array.

    Raises:
        BrokenImageError: The file is empty, truncated, too large, or not a picture.
    """
    if not data:
        raise BrokenImageError("the file is empty")
    silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise BrokenImageError(
                    f"{width} x {height} pixels are more than the limit of {max_pixels}"
                )
            picture.load()
            return to_rgb(_upright(picture), paper)
    except BrokenImageError:
        raise
    except Image.UnidentifiedImageError:
        raise BrokenImageError("not a picture in any known format") from None
    except Exception as error:  # parsers of damaged bytes raise almost anything
        reason = " ".join(str(error).split()) or "cannot be decoded"
        raise BrokenImageError(f"{reason} ({type(error).__name__})") from error


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Map floats in [-1, 1] to bytes in [0, 255], rounding; values outside are clipped."""
    return np.clip(np.rint((image + 1.0) * 127.5), 0, 255).astype(np.uint8)


def to_float(image: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Map bytes in [0, 255] to float32 in [-1, 1]; `to_uint8` inverts it exactly."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


@cache
def _formats() -> tuple[str, ...]:
    """The accepted formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def silence_pillow() -> None:
    """Keep a filter for warnings from within Pillow at the front of the process's filters.

    Pillow warns about damaged metadata and large pictures; both are settled here by an error
    or by ignoring the metadata. `warnings.catch_warnings` would be narrower in time, but it
    swaps state of the whole process and so breaks when several threads decode at once.
    """
    front = warnings.filters[0] if warnings.filters else None
    if front is None or getattr(front[3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable EXIF data counts as none."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
    except Exception:  # the pixels are sound, so damaged metadata must not lose the picture
        return picture
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def to_rgb(picture: Image.Image, paper: tuple[int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a loaded picture of any mode to 8-bit RGB."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _scale_to_uint8(np.asarray(picture), picture.mode)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert("RGBA" if picture.mode == "RGBa" else "LA")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        behind = Image.new("RGBA", layer.size, (*paper, 255))
        picture = Image.alpha_composite(behind, layer)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _scale_to_uint8(values: np.ndarray, mode: str) -> UInt8[np.ndarray, "h w"]:
    """Scale grey values that are deeper than 8 bits to [0, 255].

    16-bit values (Pillow's modes `I;16*`, and `I`, which also holds 16-bit files) have white
    at 65535; larger integers at 2^31 - 1. Floats have white at 1 or at 255 when all values fit
    one of these ranges, and are otherwise stretched from minimum to maximum. Values that are
    not finite become black.
    """
    pixels = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(pixels.min()), float(pixels.max())
    if mode != "F":
        black, white = 0.0, 65535.0 if high <= 65535 else 2.0**31 - 1
    elif low >= 0 and high <= 255:
        black, white = 0.0, 1.0 if high <= 1 else 255.0
    else:
        black, white = low, high
    scaled = (pixels - black) / max(white - black, np.finfo(np.float64).tiny) * 255.0
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

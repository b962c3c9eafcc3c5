"""Pictures from outside: judged by bytes, kind and pixels before anything is decoded."""

import threading

import numpy as np

from igpt_jax.data.geometry import center_crop
from igpt_jax.data.images import BrokenImageError, decode_image
from igpt_jax.errors import UserError
from igpt_jax.typing import Bool, UInt8

# By what they begin with: what a request calls a file says nothing.
_SIGNATURES = {
    "PNG": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "JPEG": lambda data: data.startswith(b"\xff\xd8\xff"),
    "WebP": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
}

_DECODING = threading.BoundedSemaphore(2)  # large pictures of many requests would fill the memory


class TooLarge(UserError):
    """A picture of too many bytes or pixels."""


def read_upload(
    data: bytes, image_size: int, *, max_bytes: int, max_pixels: int, name: str = "image"
) -> UInt8[np.ndarray, "s s 3"]:
    """A picture from outside, of which the centre is cut to a model's size.

    Args:
        data: the whole file.
        image_size: pixels a side of the result.
        max_bytes: of the file.
        max_pixels: width times height, which the file's header tells.
        name: what errors call it.

    Raises:
        TooLarge: of too many bytes.
        UserError: no PNG, JPEG or WebP picture, a damaged one, or one of too many pixels.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"{name}: expected at most {max_bytes} bytes, got {len(data)}")
    if not any(is_one(data) for is_one in _SIGNATURES.values()):
        raise UserError(f"{name}: expected a PNG, JPEG or WebP picture, got something else")
    with _DECODING:
        try:
            return center_crop(decode_image(data, max_pixels=max_pixels), image_size)
        except BrokenImageError as error:
            raise UserError(f"{name}: expected a whole picture: {error}") from error


def as_mask(image: UInt8[np.ndarray, "s s 3"]) -> Bool[np.ndarray, "s s"]:
    """A mask, white where a picture is drawn anew.

    Raises:
        UserError: nothing of it is white.
    """
    mask = image.mean(axis=-1) > 127
    if not mask.any():
        raise UserError("mask: expected white where the picture is drawn anew, got none")
    return mask

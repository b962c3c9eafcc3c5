"""MP4, WebM and other containers of compressed frames, by PyAV, the binding of FFmpeg."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from igpt_jax.data.images import BrokenImageError
from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8

# Formats that hold their pictures themselves: FFmpeg's play lists would open other files.
_CONTAINERS: Final = "mov,matroska,avi,mpegts,mpeg,ogg,flv,asf"
_SEEKABLE: Final = ("mov", "matroska")  # with an index, and a time for every frame
_CRF: Final = "8"  # x264's quality: small pictures are small files, so little need be lost


def pyav() -> Any:
    """Imports PyAV.

    Raises:
        UserError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "video: expected PyAV for files other than GIF, got none; install it with `pip "
            'install "igpt_jax[video]"`'
        ) from error
    return av


def container_frames(
    data: bytes, choose: Callable[[int, int, int], range]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields chosen frames, upright.

    Args:
        data: The whole file.
        choose: Says which frames, of their number, height and width; may raise.

    Raises:
        BrokenImageError: The file is cut short, damaged or has no pictures; besides, whatever PyAV
            raises about damaged bytes.
    """
    with _opened(data) as (container, stream):
        times = _times(container, stream)
        context = stream.codec_context
        chosen = choose(len(times), context.height, context.width)
    with _opened(data) as (container, stream):
        decoded = _decoded_from(container, stream, times, chosen.start)
        count = 0
        for position, frame in zip(range(chosen.start, chosen.stop), decoded, strict=False):
            if frame.is_corrupt:
                raise BrokenImageError(f"frame {position} is damaged")
            if position in chosen:
                count += 1
                yield np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    if count < len(chosen):
        raise BrokenImageError(f"expected {len(chosen)} frames, got {count}")


def count_in_container(data: bytes) -> int:
    """Counts the frames without decoding them; raises as `container_frames`."""
    with _opened(data) as (container, stream):
        return len(_times(container, stream))


def encode_mp4(
    path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float, comment: str | None
) -> None:
    """Writes frames of even height and width as H.264, 4:2:0."""
    av = pyav()
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate, options={"crf": _CRF, "preset": "slow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        # Said in the file, as players guess otherwise: BT.709 primaries, sRGB curve, BT.601 matrix,
        # 16 to 235 (ITU-T H.273, tables 2 to 4).
        context.color_primaries, context.color_trc, context.colorspace = 1, 13, 6
        context.color_range = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """A container with its first stream of pictures, which is decoded strictly."""
    av = pyav()
    if data[4:8] == b"ftyp":
        _check_mp4_end(data)
    options = {"format_whitelist": _CONTAINERS}
    with av.open(io.BytesIO(data), options=options) as container:
        if not container.streams.video:
            raise BrokenImageError("there are no pictures in the file")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise BrokenImageError("the pictures are in no known code")
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1  # sources are read by many threads already
        yield container, stream


def _check_mp4_end(data: bytes) -> None:
    """Raises when the last box ends beyond the file: FFmpeg takes a cut file for a short one.

    ISO/IEC 14496-12, section 4.2.
    """
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        position = position + max(size, 8) if size else len(data)
    if position != len(data):
        raise BrokenImageError("the file is cut short")


def _times(container: Any, stream: Any) -> list[int | None]:
    """When each frame is shown, in their order, in the stream's own unit; None if not told."""
    packets = [packet for packet in container.demux(stream) if packet.size]
    if any(packet.is_corrupt for packet in packets):
        raise BrokenImageError("the file is cut short")
    times = [packet.pts for packet in packets if not packet.is_discard]
    return times if None in times else sorted(times)


def _decoded_from(
    container: Any, stream: Any, times: list[int | None], start: int
) -> Iterator[Any]:
    """Decodes the frames from `start` on; where it can be found, from the key frame before it."""
    can_seek = None not in times and container.format.name.startswith(_SEEKABLE)
    if start == 0 or not can_seek:
        yield from islice(container.decode(stream), start, None)
        return
    container.seek(times[start], stream=stream)
    yield from (frame for frame in container.decode(stream) if frame.pts >= times[start])

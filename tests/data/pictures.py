"""Picture files, sound and damaged, for the tests of this folder."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(picture: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(height: int = 6, width: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(
    bit_depth: int, color_type: int, width: int, height: int, rows: bytes, *extra: bytes
) -> bytes:
    """A PNG written by hand, after the specification (ISO/IEC 15948)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *(chunk(e[:4], e[4:]) for e in extra)]
    chunks += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damaged_files() -> dict[str, bytes]:
    """More than 200 inputs that are cut, overwritten, too large, or no pictures at all."""
    rng = np.random.default_rng(7)
    sound = sound_files()
    files = {"empty.png": b"", "one-byte.jpg": b"\xff"}
    for name, data in sound.items():
        for share in (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97):
            files[f"cut-{share}-{name}"] = data[: int(len(data) * share)]
        files[f"last-byte-{name}"] = data[:-1]
        for round_ in range(6):
            spoiled = bytearray(data)
            places = rng.integers(0, len(data), 1 + len(data) // 40)
            for place in places:
                spoiled[place] = int(rng.integers(256))
            files[f"spoiled-{round_}-{name}"] = bytes(spoiled)
        files[f"header-only-{name}"] = data[:16] + bytes(200)
    for size in (1, 2, 16, 100, 5000):
        files[f"random-{size}.jpg"] = rng.bytes(size)
        files[f"zeros-{size}.png"] = bytes(size)
    markup = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    files |= {
        "text.png": b"this is no picture\n" * 9,
        "page.jpg": b"<!doctype html><html><body>404</body></html>",
        "drawing.svg": markup,
        "drawing.png": markup,
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "paper.jpg": b"%PDF-1.7\n%%EOF",
        "bomb.png": png(8, 2, 60_000, 60_000, b""),
        "bomb-just-over.png": png(1, 0, 9_600, 9_600, b""),
        "bomb.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0",
        "bomb.ppm": b"P6 90000 90000 255\n",
        "no-width.png": png(8, 2, 0, 5, b""),
        "no-rows.png": png(8, 2, 5, 5, b""),
        "bad-depth.png": png(7, 2, 5, 5, b"\0" * 80),
        "archive.png": b"PK\x03\x04" + bytes(60),
    }
    return files


def sound_files() -> dict[str, bytes]:
    """One good file in each of the formats that the decoder reads."""
    picture = Image.fromarray(noise(24, 20))
    formats = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}
    files = {f"a.{ending}": encode(picture, fmt) for fmt, ending in formats.items()}
    files["lzw.tif"] = encode(picture, "TIFF", compression="tiff_lzw")
    files["raw.tif"] = encode(picture, "TIFF")
    files["a.jp2"] = encode(picture, "JPEG2000")
    files["a.ppm"] = encode(picture, "PPM")
    exif = Image.Exif()
    exif[0x0112] = 6
    files["exif.jpg"] = encode(picture, "JPEG", exif=exif, progressive=True)
    files["frames.gif"] = encode(picture, "GIF", save_all=True, append_images=[picture.rotate(9)])
    files["frames.png"] = encode(picture, "PNG", save_all=True, append_images=[picture.rotate(9)])
    return files

"""Files and texts that nobody honest sends, made by a seed."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, body, *more, depth=8, colour=2):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", head), *more, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def picture(chance, mode="RGB", kind="PNG", **how):
    """A whole picture of noise, of a mode and a format."""
    size = chance.randint(1, 40), chance.randint(1, 40)
    pixels = np.frombuffer(chance.randbytes(size[0] * size[1] * 3), np.uint8)
    image = Image.fromarray(pixels.reshape(size[1], size[0], 3)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **how)
    return buffer.getvalue()


def bomb(chance):
    """A few kilobytes that would be gigabytes of pixels."""
    side = chance.randint(20_000, 60_000)
    return png(side, side, zlib.compress(bytes(1 << 20), 9))


def false_size(chance):
    """A header that tells another size than there are pixels."""
    return png(chance.randint(1, 3_000), chance.randint(1, 3_000), zlib.compress(b"\0" * 50))


def endless_data(chance):
    """A small picture whose data go on and on."""
    return png(4, 4, zlib.compress(bytes(chance.randint(1, 8) << 20), 9))


def text_bomb(chance):
    """A text chunk that is packed a thousand times smaller than it is."""
    packed = b"Comment\0\0" + zlib.compress(bytes(chance.randint(1, 8) << 20), 9)
    more = png_chunk(b"zTXt", packed), png_chunk(b"iCCP", b"x\0\0" + packed[9:])
    return png(4, 4, zlib.compress(b"\0" * 52), chance.choice(more))


def huge_header(chance):
    """Megabytes before the pixels."""
    return png(4, 4, zlib.compress(b"\0" * 52), png_chunk(b"tEXt", b"a\0" + bytes(1 << 20)))


def truncated(chance):
    whole = picture(chance, kind=chance.choice(("PNG", "JPEG", "WEBP")))
    return whole[: chance.randrange(len(whole))]


def damaged(chance):
    data = bytearray(picture(chance, kind=chance.choice(("PNG", "JPEG", "WEBP"))))
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def polyglot(chance):
    """A picture with something else behind it that other programs would open."""
    behind = (
        b"<script>alert(1)</script>",
        b"PK\x03\x04" + bytes(30),
        b"%PDF-1.7\n",
        b"#!/bin/sh\n",
    )
    return picture(chance, kind=chance.choice(("PNG", "JPEG"))) + chance.choice(behind)


def wrong_type(chance):
    """What is no picture, or one of a kind that is not taken."""
    return chance.choice((
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        lambda: b"<!doctype html><script>alert(1)</script>",
        lambda: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        lambda: b"/etc/passwd",
        lambda: b"",
        lambda: chance.randbytes(chance.randint(1, 2_000)),
        lambda: picture(chance, kind=chance.choice(("GIF", "BMP", "TIFF", "PPM", "ICO"))),
    ))()  # fmt: skip


def false_start(chance):
    """What begins as a picture does, and is none."""
    starts = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\xff\xff\xff\xffWEBPVP8X")
    return chance.choice(starts) + chance.randbytes(chance.randint(0, 500))


def animated(chance):
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(chance.randint(2, 60))]
    buffer, kind = io.BytesIO(), chance.choice(("PNG", "WEBP", "GIF"))
    frames[0].save(buffer, format=kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def unusual_mode(chance):
    """Whole pictures of pixels that are not three bytes each."""
    mode, kind = chance.choice((
        ("CMYK", "JPEG"), ("L", "JPEG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"),
        ("I;16", "PNG"), ("RGBA", "WEBP"),
    ))  # fmt: skip
    if mode == "I;16":
        values = np.full((8, 8), chance.randrange(65_536), np.uint16)
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format="PNG")
        return buffer.getvalue()
    return picture(chance, mode, kind)


def with_metadata(chance):
    """A camera's words, which must not be kept."""
    exif = Image.Exif()
    exif[0x0112] = chance.randint(0, 20)  # how it was held
    exif[0x010E] = "secret place " * chance.randint(1, 500)
    return picture(chance, kind="JPEG", exif=exif)


FILES = (
    bomb, false_size, endless_data, text_bomb, huge_header, truncated, damaged, polyglot,
    wrong_type, false_start, animated, unusual_mode, with_metadata,
)  # fmt: skip


def uploads(count, seed):
    """Pairs of a kind's name and a file."""
    chance = random.Random(seed)
    for number in range(count):
        make = FILES[number % len(FILES)]
        yield make.__name__, make(chance)


PROMPTS = {
    "plain": "a card of hearts",
    "nul": "a card\0 of hearts",
    "control": "".join(map(chr, range(32))),
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "surrogate": "\ud800",
    "surrogates_reversed": "\udc00\ud800 a card",
    "unassigned": "\uffff\U0010ffff",
    "megabyte": "card " * 200_000,
    "right_to_left": "\u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "zero_width": "\u200b\u200d\ufeff",
    "combining": "a" + "\u0301" * 500,
    "sql": "'; DROP TABLE jobs; --",
    "sql_match": '" OR 1=1 NEAR(jobs*) ^x -y :* & | ! <-> (',
    "html": "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "template": "{{7*7}} ${7*7} %(x)s %n {0.__class__}",
    "path": "../../../../etc/passwd\\..\\..",
    "empty": "",
    "spaces": " \t\r\n\u2028\u2029 ",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e007f",
}

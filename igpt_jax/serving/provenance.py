"""Pictures as files that say that a model made them, and how."""

import io
import json
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

import igpt_jax
from igpt_jax.typing import UInt8

# https://cv.iptc.org/newscodes/digitalsourcetype/, the term for what a trained model made.
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP_CHUNK = "XML:com.adobe.xmp"


def generated_by() -> str:
    """What made the pictures."""
    return f"igpt_jax {igpt_jax.__version__}"


def png_file(
    image: UInt8[np.ndarray, "h w 3"], settings: Mapping[str, Any], *, is_marked: bool = False
) -> bytes:
    """A PNG with its settings in the text chunk `igpt_jax`, and its source as IPTC names it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("igpt_jax", json.dumps({"generated_by": generated_by(), **settings}))
    info.add_text("Software", generated_by())
    info.add_itxt(_XMP_CHUNK, _xmp())
    picture, buffer = Image.fromarray(image), io.BytesIO()
    if is_marked:
        _mark(picture)
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def webp_file(png: bytes) -> bytes:
    """The same picture as WebP without loss, with its source."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        picture.convert("RGB").save(buffer, format="WEBP", lossless=True, xmp=_xmp().encode())
    return buffer.getvalue()


def preview_file(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A small file of a picture that is not done, for a moment's look."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=80, method=0)
    return buffer.getvalue()


def plain_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A PNG of pixels alone: nothing of an uploaded file but what it shows is kept."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _mark(picture: Image.Image) -> None:
    """Writes AI into the lower right corner, where one sees it."""
    size = max(8, picture.height // 12)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(picture, "RGBA")
    left, top, right, bottom = (round(edge) for edge in font.getbbox("AI"))
    width, height = right - left + 4, bottom - top + 4
    x, y = picture.width - width, picture.height - height
    draw.rectangle((x, y, picture.width, picture.height), fill=(0, 0, 0, 150))
    draw.text((x + 2 - left, y + 2 - top), "AI", fill="white", font=font)


def _xmp() -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(_SOURCE)} "
        f"xmp:CreatorTool={quoteattr(generated_by())}/>"
        "</rdf:RDF></x:xmpmeta>"
    )

"""Pictures of pictures: grids with captions, PNG files that say how they were made."""

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from igpt_jax.typing import UInt8

GAP = 2  # pixels between pictures


def image_grid(
    images: UInt8[np.ndarray, "n h w 3"],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "grid_h grid_w 3"]:
    """Lays pictures out row by row, each above its caption.

    Small pictures are enlarged by whole factors to at least 48 pixels, so that they can be seen.
    """
    zoom = max(1, math.ceil(48 / images.shape[1]))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    caption_height = 14 if captions else 0
    cell = (height + caption_height + GAP, width + GAP)
    canvas = Image.new("RGB", (columns * cell[1] + GAP, rows * cell[0] + GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for i, image in enumerate(images):
        x, y = GAP + i % columns * cell[1], GAP + i // columns * cell[0]
        canvas.paste(Image.fromarray(image), (x, y))
        if captions:
            caption = _shortened(captions[i], width, font)
            draw.text((x + width / 2, y + height), caption, "black", font=font, anchor="ma")
    return np.asarray(canvas)


def _shortened(text: str, width: int, font: Any) -> str:
    """As much of a text as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def save_png(
    path: Path, image: UInt8[np.ndarray, "h w 3"], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a PNG, whole or not at all; `metadata` goes into its text chunk `igpt_jax` as JSON."""
    info = PngImagePlugin.PngInfo()
    if metadata is not None:
        info.add_text("igpt_jax", json.dumps(metadata))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)

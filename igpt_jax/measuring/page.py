"""What all pages of measurements share: one HTML file that holds its pictures and loads nothing."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from PIL import Image

from igpt_jax.evaluation.curves import number

MAX_WIDTH: Final = 1600  # of a picture in a page, in pixels
_SHOWN_WIDTH: Final = 920  # of the column that pictures stand in


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Writes a page, whole or not at all; text in `content` stays text.

    Args:
        path: where to.
        template: a file of `templates/`.
        content: what it names.
    """
    text = render(template, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page as text; arguments as of `write_page`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("igpt_jax.measuring"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**content)


def embedded(image: Image.Image) -> dict[str, Any]:
    """A picture for a page, no wider than it needs.

    Returns:
        `data`, a PNG as a `data:` address; `width` and `height`; `zoom`, the whole number of times
        that it may be enlarged.
    """
    if image.width > MAX_WIDTH:
        height = round(image.height * MAX_WIDTH / image.width)
        image = image.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return {
        "data": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        "width": image.width,
        "height": image.height,
        "zoom": max(1, _SHOWN_WIDTH // image.width),
    }


def written(name: str, value: float) -> str:
    """The number of a measure for people: times with their unit, others with four digits."""
    return duration(value) if name.endswith("_seconds") else number(value)


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 1:
        return f"{1_000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"

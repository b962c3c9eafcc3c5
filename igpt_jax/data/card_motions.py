"""Cards in motion: they count up, slide over the table, or turn over."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageDraw

from igpt_jax.data.card_faces import (
    CARD_BOX,
    INKS,
    TABLES,
    UNITS,
    Background,
    Card,
    Colour,
    blank_card,
    blend,
    draw_card,
    empty_canvas,
    pixels_a_unit,
    require,
    rounded_box,
    shrink,
)
from igpt_jax.typing import UInt8

Motion: TypeAlias = Literal["count", "slide", "turn"]
Direction: TypeAlias = Literal["left", "right", "up", "down"]

MOTIONS: Final[tuple[Motion, ...]] = get_args(Motion)
DIRECTIONS: Final[dict[Direction, tuple[int, int]]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
"""Steps in x and y; y grows downwards."""

_SLIDE: Final = (-10.0, 11.0)  # units from the middle; of 8 frames, each moves by 3 units
_BACK_INSET: Final = 4.0
_BACK_RADIUS: Final = 2.5
_LATTICE: Final = 6.0  # units between two lines
_LATTICE_WIDTH: Final = 1.3
_THINNEST: Final = 2  # pixels of a card that is seen from its edge


@dataclass(frozen=True)
class CardVideo:
    """Everything that is to be seen in one video.

    Attributes:
        motion: What happens.
        cards: The face of the card in each frame, which is out of sight while the back shows.
        direction: Where a sliding card goes; None for the other motions.
    """

    motion: Motion
    cards: tuple[Card, ...]
    direction: Direction | None = None

    def __post_init__(self) -> None:
        require(len(self.cards) >= 1, "at least one frame", self.cards)
        require(self.motion in MOTIONS, f"a motion of {MOTIONS}", self.motion)
        fits = (self.direction in DIRECTIONS) == (self.motion == "slide")
        require(fits, "a direction for a card that slides, and only for it", self.direction)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The first number of the face in each frame."""
        return tuple(card.numbers[0] for card in self.cards)


def draw_video(video: CardVideo, image_size: int = 64) -> UInt8[np.ndarray, "t h w 3"]:
    """Draws a video.

    A card that slides moves by whole pixels, from 10 units before its place to 11 behind it (a
    picture is 64 units wide). One that turns makes a full turn about its upright axis, half of
    which shows its back.

    Args:
        video: What to draw.
        image_size: Width and height of a frame, in pixels.

    Returns:
        New RGB frames.
    """
    frames = [draw_card(card, image_size) for card in video.cards]
    shares = np.linspace(0.0, 1.0, len(frames)) if len(frames) > 1 else np.zeros(1)
    if video.direction is not None:
        frames = [
            _slid(frame, video.direction, float(share))
            for frame, share in zip(frames, shares, strict=True)
        ]
    elif video.motion == "turn":
        frames = [
            _turned(frame, card, float(share))
            for frame, card, share in zip(frames, video.cards, shares, strict=True)
        ]
    return np.stack(frames)


def is_face_seen(share: float) -> bool:
    """Whether a card shows its face after a share of its full turn."""
    return bool(np.cos(2 * np.pi * share) > 0)


@lru_cache(maxsize=64)
def card_back(
    colour: Colour, background: Background, image_size: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the back of a card, a lattice of paper on ink; not to be written to."""
    left, top, right, bottom = CARD_BOX
    inset = _BACK_INSET
    box = (left + inset, top + inset, right - inset, bottom - inset)
    inked = rounded_box(box, _BACK_RADIUS, image_size)
    lines = empty_canvas(image_size)
    draw, scale = ImageDraw.Draw(lines), pixels_a_unit(image_size)
    reach = UNITS * scale
    for middle in np.arange(-UNITS, 2 * UNITS, _LATTICE) + UNITS / 2 % _LATTICE:
        x, width = middle * scale, round(_LATTICE_WIDTH * scale)
        draw.line((x, 0, x + reach, reach), fill=255, width=width)
        draw.line((x, 0, x - reach, reach), fill=255, width=width)
    ink = shrink(inked) * (1 - shrink(lines))
    back = blend(blank_card(background, image_size), INKS[colour], ink)
    back.flags.writeable = False
    return back


def _slid(
    frame: UInt8[np.ndarray, "h w 3"], direction: Direction, share: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Moves a picture; the table, which is of one colour, goes on at its border."""
    size = len(frame)
    start, end = _SLIDE
    distance = round((start + share * (end - start)) * size / UNITS)
    x, y = (distance * step for step in DIRECTIONS[direction])
    margin = abs(distance)
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return padded[margin - y : margin - y + size, margin - x : margin - x + size].copy()


def _turned(
    face: UInt8[np.ndarray, "h w 3"], card: Card, share: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Squeezes a face, or the back, to the width in which it is seen."""
    size = len(face)
    side = face if is_face_seen(share) else card_back(card.colour, card.background, size)
    narrowed = size * abs(float(np.cos(2 * np.pi * share)))
    # As even or odd as the picture, so that the axis stays in the middle.
    width = size - 2 * round((size - narrowed) / 2)
    card_width = (CARD_BOX[2] - CARD_BOX[0]) / UNITS
    width = max(width, 2 * round(_THINNEST / card_width / 2) + size % 2)
    turned = np.empty_like(face)
    turned[...] = TABLES[card.background]
    squeezed = Image.fromarray(side).resize((width, size), Image.Resampling.BICUBIC)
    left = (size - width) // 2
    turned[:, left : left + width] = np.asarray(squeezed)
    return turned

"""Playing cards with numbers on them: what is on one, and how it is drawn.

Lengths are given in card units: a picture is 64 units wide and high, whatever its size in pixels.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from igpt_jax.errors import UserError

Suit: TypeAlias = Literal["hearts", "diamonds", "clubs", "spades"]
Colour: TypeAlias = Literal["red", "black", "blue", "green"]
Background: TypeAlias = Literal["green", "navy", "burgundy", "walnut"]
Place: TypeAlias = Literal["top", "centre", "bottom"]
RGB: TypeAlias = tuple[int, int, int]

SUITS: Final[tuple[Suit, ...]] = get_args(Suit)
PLACES: Final[tuple[Place, ...]] = get_args(Place)
INKS: Final[dict[Colour, RGB]] = {
    "red": (200, 24, 36),
    "black": (24, 24, 30),
    "blue": (24, 64, 190),
    "green": (8, 118, 58),
}
TABLES: Final[dict[Background, RGB]] = {
    "green": (32, 94, 66),
    "navy": (36, 52, 98),
    "burgundy": (112, 30, 48),
    "walnut": (108, 72, 46),
}
PAPER: Final[RGB] = (252, 251, 248)
BORDER: Final[RGB] = (170, 168, 164)

MAX_NUMBER: Final = 100
MAX_NUMBERS: Final = len(PLACES)
MAX_JITTER: Final = 2
IMAGE_SIZES: Final = range(32, 257)

UNITS: Final = 64
"""Width and height of every picture in card units."""
CARD_BOX: Final = (9.0, 4.0, 55.0, 60.0)
"""Left, top, right and bottom of the card, in units."""
ROW_HEIGHTS: Final[dict[Place, float]] = {"top": 16.0, "centre": 32.0, "bottom": 48.0}
"""Height at which each place centres its number, in units from the top."""

_CORNER_RADIUS: Final = 5.0
_BORDER_WIDTH: Final = 0.7
_SUIT_SIZE: Final = 8.4
_SUIT_CENTRE: Final = (16.3, 12.5)
_LARGE_FONT: Final = 30.0
_ROW_FONT: Final = 15.0
_LARGE_WIDTH: Final = 37.0
_ROW_WIDTH: Final = 22.0
_BOLDNESS: Final = 0.028  # width of the stroke added around a glyph, as a share of the font size
_TRACKING: Final = 0.03  # room added between two glyphs, as a share of the font size
_SUPERSAMPLING: Final = 4


def require(valid: bool, expected: str, got: object) -> None:
    """Raises a `UserError` that names what was expected unless `valid`."""
    if not valid:
        raise UserError(f"expected {expected}, got {got!r}; change that value")


@dataclass(frozen=True)
class Card:
    """Everything that is to be seen on one card.

    A number that stands alone in the centre is drawn large, all others in the size of a row.

    Attributes:
        numbers: One to three numbers in 0..100, from top to bottom.
        places: Where each number stands.
        suit: The symbol in the two corners.
        colour: Ink of the numbers and symbols.
        background: Colour of the table under the card.
        shift: Displacement `(x, y)` of the numbers, in units.
    """

    numbers: tuple[int, ...]
    places: tuple[Place, ...] = ("centre",)
    suit: Suit = "hearts"
    colour: Colour = "red"
    background: Background = "green"
    shift: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        in_range = all(0 <= number <= MAX_NUMBER for number in self.numbers)
        in_order = tuple(place for place in PLACES if place in self.places)
        require(
            1 <= len(self.numbers) <= MAX_NUMBERS, "one to three numbers on a card", self.numbers
        )
        require(in_range, f"numbers in 0..{MAX_NUMBER}", self.numbers)
        require(self.places == in_order, f"different places in the order {PLACES}", self.places)
        require(len(self.places) == len(self.numbers), "one place for each number", self.places)
        require(self.suit in SUITS, f"a suit of {SUITS}", self.suit)
        require(self.colour in INKS, f"a colour of {tuple(INKS)}", self.colour)
        require(self.background in TABLES, f"a background of {tuple(TABLES)}", self.background)
        require(max(map(abs, self.shift)) <= MAX_JITTER, f"a shift up to {MAX_JITTER}", self.shift)


def draw_card(card: Card, image_size: int = 64) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a card.

    Args:
        card: What to draw.
        image_size: Width and height of the picture, in pixels.

    Returns:
        A new RGB picture.
    """
    image = _card_without_numbers(card.suit, card.colour, card.background, image_size).copy()
    large = card.places == ("centre",)
    for number, place in zip(card.numbers, card.places, strict=True):
        mask, top, left = _cropped_number(number, place, large, card.shift, image_size)
        height, width = mask.shape
        region = image[top : top + height, left : left + width]
        region[...] = blend(region, INKS[card.colour], mask)
    return image


@lru_cache(maxsize=256)
def _card_without_numbers(
    suit: Suit, colour: Colour, background: Background, image_size: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the table, the blank card and the two suit symbols; not to be written to."""
    blank = blank_card(background, image_size)
    return blend(blank, INKS[colour], suit_mask(suit, image_size))


def blank_card(background: Background, image_size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a card with nothing on it, on its table, in pixels of `image_size`."""
    left, top, right, bottom = CARD_BOX
    inset = _BORDER_WIDTH
    outline = rounded_box((left, top, right, bottom), _CORNER_RADIUS, image_size)
    paper_box = (left + inset, top + inset, right - inset, bottom - inset)
    paper = rounded_box(paper_box, _CORNER_RADIUS - inset, image_size)
    shadow_box = (left + 0.4, top + 1.2, right + 0.4, bottom + 1.2)
    shadow = rounded_box(shadow_box, _CORNER_RADIUS, image_size)
    shadow = shadow.filter(ImageFilter.GaussianBlur(1.2 * pixels_a_unit(image_size)))

    table = np.full((image_size, image_size, 3), TABLES[background], np.uint8)
    image = blend(table, (0, 0, 0), 0.45 * shrink(shadow))
    image = blend(image, BORDER, shrink(outline))
    return blend(image, PAPER, shrink(paper))


def suit_mask(suit: Suit, image_size: int) -> Float[np.ndarray, "h w"]:
    """Draws the two symbols of a suit; 1 where there is ink, in pixels of `image_size`."""
    canvas = empty_canvas(image_size)
    _draw_suit(ImageDraw.Draw(canvas), suit, pixels_a_unit(image_size))
    upper_left = shrink(canvas)
    return np.maximum(upper_left, upper_left[::-1, ::-1])


def number_mask(
    number: int, place: Place, large: bool, shift: tuple[int, int], image_size: int
) -> Float[np.ndarray, "h w"]:
    """Draws a number; 1 where there is ink.

    Args:
        number: The number, 0..100.
        place: Where it stands.
        large: Whether it is drawn in the size of a lone number instead of that of a row.
        shift: Displacement `(x, y)`, in units.
        image_size: Width and height of the picture, in pixels.

    Returns:
        The share of ink in each pixel.
    """
    text, scale = str(number), pixels_a_unit(image_size)
    font, advances = _typeset(text, large, scale)
    stroke = _BOLDNESS * font.size
    left = font.getbbox(text[0], stroke_width=stroke)[0]
    right = advances[-1] + font.getbbox(text[-1], stroke_width=stroke)[2]
    _, top, _, bottom = font.getbbox("0", stroke_width=stroke)
    x = (UNITS / 2 + shift[0]) * scale - (left + right) / 2
    y = (ROW_HEIGHTS[place] + shift[1]) * scale - (top + bottom) / 2
    canvas = empty_canvas(image_size)
    draw = ImageDraw.Draw(canvas)
    for digit, advance in zip(text, advances, strict=True):
        draw.text((round(x + advance), round(y)), digit, 255, font, stroke_width=stroke)
    return shrink(canvas)


@lru_cache(maxsize=4096)
def _cropped_number(
    number: int, place: Place, large: bool, shift: tuple[int, int], image_size: int
) -> tuple[Float[np.ndarray, "h w"], int, int]:
    """Returns the inked part of a `number_mask` with its top and its left edge in pixels."""
    mask = number_mask(number, place, large, shift, image_size)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return mask[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left


def _typeset(text: str, large: bool, scale: float) -> tuple[ImageFont.FreeTypeFont, list[float]]:
    """Chooses the font for `text`, as large as its place has room for.

    Returns:
        The font and where each glyph starts, in supersampled pixels.
    """
    font = _font((_LARGE_FONT if large else _ROW_FONT) * scale)
    room = (_LARGE_WIDTH if large else _ROW_WIDTH) * scale
    excess = (font.getlength("0") + _TRACKING * font.size) * len(text) / room
    if excess > 1:
        font = _font(font.size / excess)
    advance = font.getlength("0") + _TRACKING * font.size
    return font, [advance * position for position in range(len(text))]


@lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font, whose digits are all equally wide."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError(
            "expected a Pillow with FreeType, got one without; install the pillow wheel from PyPI"
        )
    return font


def _draw_suit(draw: ImageDraw.ImageDraw, suit: Suit, scale: float) -> None:
    """Draws the symbol of the upper left corner from circles and polygons."""

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            (_SUIT_CENTRE[0] + x * _SUIT_SIZE) * scale,
            (_SUIT_CENTRE[1] + y * _SUIT_SIZE) * scale,
        )

    def circle(x: float, y: float, radius: float) -> None:
        draw.ellipse((*place(x - radius, y - radius), *place(x + radius, y + radius)), fill=255)

    def polygon(*points: tuple[float, float]) -> None:
        draw.polygon([place(x, y) for x, y in points], fill=255)

    match suit:
        case "hearts":
            circle(-0.22, -0.2, 0.25)
            circle(0.22, -0.2, 0.25)
            polygon((-0.44, -0.07), (0.0, -0.25), (0.44, -0.07), (0.0, 0.5))
        case "diamonds":
            polygon((0.0, -0.55), (0.4, 0.0), (0.0, 0.55), (-0.4, 0.0))
        case "clubs":
            circle(0.0, -0.3, 0.22)
            circle(-0.27, 0.08, 0.22)
            circle(0.27, 0.08, 0.22)
            polygon((-0.1, -0.3), (0.1, -0.3), (0.07, 0.1), (0.18, 0.5), (-0.18, 0.5), (-0.07, 0.1))
        case "spades":
            circle(-0.21, 0.1, 0.22)
            circle(0.21, 0.1, 0.22)
            polygon((0.0, -0.58), (0.41, 0.02), (0.0, 0.25), (-0.41, 0.02))
            polygon((-0.05, 0.0), (0.05, 0.0), (0.18, 0.52), (-0.18, 0.52))


def pixels_a_unit(image_size: int) -> float:
    """Returns the supersampled pixels in one unit."""
    return image_size * _SUPERSAMPLING / UNITS


def empty_canvas(image_size: int) -> Image.Image:
    """Returns an empty supersampled mask."""
    return Image.new("L", (image_size * _SUPERSAMPLING, image_size * _SUPERSAMPLING))


def shrink(canvas: Image.Image) -> Float[np.ndarray, "h w"]:
    """Averages a supersampled mask to pixels, with values in 0..1."""
    return np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32) / 255


def rounded_box(
    box: tuple[float, float, float, float], radius: float, image_size: int
) -> Image.Image:
    """Draws the supersampled mask of a box with rounded corners, given in units."""
    scale = pixels_a_unit(image_size)
    left, top, right, bottom = (round(edge * scale) for edge in box)
    canvas = empty_canvas(image_size)
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius * scale, fill=255)
    return canvas


def blend(
    image: UInt8[np.ndarray, "h w 3"], colour: RGB, mask: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints `colour` over an image where the mask is 1 and in shares where it is less."""
    paint = np.array(colour, np.float32) - image
    return (image + mask[..., None] * paint + 0.5).astype(np.uint8)

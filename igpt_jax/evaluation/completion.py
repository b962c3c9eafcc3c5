"""Whether cards that a model completed agree with the part of them that it was shown."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from igpt_jax.data.card_faces import UNITS, Card, Place, number_mask
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import CardReading, largest_spot, read_card
from igpt_jax.typing import Bool, Float, UInt8

Part: TypeAlias = Literal["left", "right", "centre", "top", "bottom"]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom, in card units."""

LARGE_NUMBER_BOX: Final[Box] = (13.0, 19.0, 51.0, 45.0)
"""Has every large number within it, at any shift of up to one unit."""

# Between all two-digit numbers at all shifts up to 2, two that differ in the hidden digit alone
# have spots of at most 0.21 in the visible half, two that differ in the visible one of at least
# 0.38. No displacement is allowed for: it would only make room for wrong numbers.
_MAX_SPOT: Final = 0.25


def number_box(card: Card) -> Box:
    """Returns the bounding box of the number of a card.

    Raises:
        UserError: the card has several numbers.
    """
    ink = _drawing(_only_number(card), card.places[0], card.places == ("centre",), card.shift)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def hidden_mask(
    image_size: int, grid_shape: tuple[int, int], part: Part, box: Box = LARGE_NUMBER_BOX
) -> Bool[np.ndarray, "h w"]:
    """Hides half of a box on a picture, in whole cells of the token grid.

    Args:
        image_size: Width and height of the picture, in pixels.
        grid_shape: Rows and columns of tokens.
        part: Which half; "centre" is the band of half the width in the middle.
        box: What to hide half of; by default the room that large numbers take, see also
            `number_box`.

    Returns:
        True where the picture is hidden. The cut through the box is at the cell border next to its
        middle, and at least one cell is hidden; the other sides go outwards to whole cells.

    Raises:
        UserError: a grid that does not divide the picture, no such part, or a box that is empty or
            not on the picture.
    """
    rows, columns = grid_shape
    if min(rows, columns) < 1 or image_size % rows or image_size % columns:
        raise UserError(
            f"grid_shape: expected rows and columns that divide {image_size}, got {grid_shape}; "
            "give the tokenizer's"
        )
    if part not in get_args(Part):
        raise UserError(f"part: expected one of {get_args(Part)}, got {part!r}; choose one of them")
    left, top, right, bottom = box
    if not (0 <= left < right <= UNITS and 0 <= top < bottom <= UNITS):
        raise UserError(
            f"box: expected left < right and top < bottom in 0..{UNITS}, got {box}; change it"
        )
    across: Part | None = part if part in ("left", "right", "centre") else None
    down: Part | None = part if part in ("top", "bottom") else None
    mask = np.zeros((rows, columns), bool)
    mask[_cells(top, bottom, rows, down), _cells(left, right, columns, across)] = True
    return mask.repeat(image_size // rows, axis=0).repeat(image_size // columns, axis=1)


def number_agrees(number: int, card: Card, mask: Bool[np.ndarray, "h w"]) -> bool:
    """Tells whether a number looks like that of a card wherever the card is visible.

    Args:
        number: What the completed card says, 0..100.
        card: The card that was shown in part.
        mask: Where it was hidden, in pixels of a picture of any size.

    Returns:
        Whether a clean drawing of `number` and one of the card's own number, at the same place, in
        the same size and with the same shift, differ nowhere in the visible part by more than thin
        lines. Numbers that look alike in all of the visible part agree.

    Raises:
        UserError: the card has several numbers, or the mask is not square.
    """
    place, is_large = card.places[0], card.places == ("centre",)
    own = _drawing(_only_number(card), place, is_large, card.shift)
    drawn = _drawing(number, place, is_large, card.shift)
    return largest_spot((drawn - own) * _visible(mask)) <= _MAX_SPOT


def agrees_with_visible(
    image: UInt8[np.ndarray, "h w 3"], card: Card, mask: Bool[np.ndarray, "h w"]
) -> bool:
    """Tells whether a completed card is whole and agrees with what was visible of it.

    Args:
        image: The completed picture.
        card: The card that was shown in part.
        mask: True where it was hidden.

    Returns:
        Whether the picture reads as a card with one number, at its place, which agrees with the
        visible part (see `number_agrees`), and with the suit and the colour of the card.

    Raises:
        UserError: the card has several numbers, or the mask is not square.
    """
    return _agrees(read_card(image), card, mask)


def completion_report(
    images: UInt8[np.ndarray, "b h w 3"],
    cards: Sequence[Card],
    mask: Bool[np.ndarray, "h w"] | Bool[np.ndarray, "b h w"],
) -> dict[str, float]:
    """Measures how many completed cards agree with what was visible of them.

    Args:
        images: The completed pictures.
        cards: The cards that were shown in part, each with one number.
        mask: True where they were hidden; one for all pictures or one for each.

    Returns:
        Shares of pictures in 0..1: `agrees` (see `agrees_with_visible`), `same_number` as the
        card's, and `readable`.

    Raises:
        UserError: no picture, not one card or mask for each, or a card with several numbers.
    """
    masks = mask if mask.ndim == 3 else np.broadcast_to(mask, (len(images), *mask.shape))
    if len(images) == 0 or not len(images) == len(cards) == len(masks):
        raise UserError(
            f"completion_report: expected a card and a mask for each of at least one picture, got "
            f"{len(images)} pictures, {len(cards)} cards and {len(masks)} masks; pass as many"
        )
    readings = [read_card(image) for image in images]
    agrees = [_agrees(*given) for given in zip(readings, cards, masks, strict=True)]
    same = [
        reading is not None and (reading.numbers, reading.places) == (card.numbers, card.places)
        for reading, card in zip(readings, cards, strict=True)
    ]
    return {
        "agrees": float(np.mean(agrees)),
        "same_number": float(np.mean(same)),
        "readable": float(np.mean([reading is not None for reading in readings])),
    }


def _agrees(reading: CardReading | None, card: Card, mask: Bool[np.ndarray, "h w"]) -> bool:
    _only_number(card)
    if reading is None or reading.places != card.places:
        return False
    if (reading.suit, reading.colour) != (card.suit, card.colour):
        return False
    return number_agrees(reading.numbers[0], card, mask)


def _only_number(card: Card) -> int:
    if len(card.numbers) != 1:
        raise UserError(
            f"completion: expected cards with one number, got one with {card.numbers}; leave out "
            "the others"
        )
    return card.numbers[0]


def _cells(first: float, last: float, count: int, part: Part | None) -> slice:
    """The cells of one direction that lie in a part of a box; in all of it if there is no part.

    Args:
        first: Where the box starts, in units.
        last: Where it ends.
        count: Cells of the whole picture.
        part: "left" or "top" is the first half.
    """
    first, last = first / UNITS * count, last / UNITS * count
    middle, quarter = (first + last) / 2, (last - first) / 4
    start, stop = int(np.floor(first)), int(np.ceil(last))
    match part:
        case "left" | "top":
            stop = max(round(middle), start + 1)
        case "right" | "bottom":
            start = min(round(middle), stop - 1)
        case "centre":
            start = min(round(middle - quarter), count - 1)
            stop = max(round(middle + quarter), start + 1)
    return slice(start, stop)


@lru_cache(maxsize=1024)
def _drawing(
    number: int, place: Place, is_large: bool, shift: tuple[int, int]
) -> Float[np.ndarray, "64 64"]:
    """Draws the ink of a number; one pixel is one unit. Not to be written to."""
    return number_mask(number, place, is_large, shift, UNITS)


def _visible(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "64 64"]:
    """The visible share of each unit of a picture."""
    if mask.shape[0] != mask.shape[1]:
        raise UserError(
            f"mask: expected a square, as pictures of cards are, got {mask.shape}; give one value "
            "a pixel"
        )
    visible = Image.fromarray((~mask).astype(np.float32))
    return np.asarray(visible.resize((UNITS, UNITS), Image.Resampling.BOX))

"""Reads the numbers off pictures of cards, to judge whether a model drew what was asked.

The reader has nothing to learn and knows only how `igpt_jax.data.card_faces` draws. It first
demands a whole card: paper within, table without, on all four sides. It then compares the ink on
the paper with every number there is and answers only if one number explains nearly all of the ink,
and no other number does so nearly as well. Whatever fails any of this is unreadable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage

from igpt_jax.data.card_faces import (
    CARD_BOX,
    INKS,
    MAX_NUMBER,
    PAPER,
    PLACES,
    ROW_HEIGHTS,
    SUITS,
    TABLES,
    UNITS,
    Colour,
    Place,
    Suit,
    blank_card,
    number_mask,
    suit_mask,
)
from igpt_jax.errors import UserError

Picture: TypeAlias = Float[np.ndarray, "64 64 3"]
Ink: TypeAlias = Float[np.ndarray, "64 64"]

_SIZE: Final = UNITS
"""Every picture is read at this width and height, so that one pixel is one card unit."""
_SMALLEST: Final = 24  # pixels; below this two digits blur into each other

_CARD_REACH: Final = 4  # how far the card may be from its place, in pixels
_NUMBER_REACH: Final = 3  # how far a number may be from its place on the card, in pixels
_SUIT_REACH: Final = 2

_MIN_CONTRAST: Final = 110.0  # distance of paper and table in RGB; a true card has about 320
_MIN_PAPER: Final = 130.0  # the darkest channel of the paper
_MAX_PAPER_TINT: Final = 50.0  # difference between the channels of the paper
_MAX_FRAME_ERROR: Final = 0.3  # colour error of a piece of the frame, relative to the contrast
_FRAME_LINES: Final = 4  # pixels on either side of the border
_PIECE: Final = 6  # length of a piece of the frame, in pixels
_MIN_INK: Final = 0.4  # distance of ink and paper, relative to that of paper and table
_MAX_STRAY: Final = 0.2  # mean colour that is neither ink nor paper, relative to the ink
_MIN_ROW_ENERGY: Final = 8.0  # inked pixels; a lone 1 has about 25

_MIN_SCORE: Final = 0.9
_MIN_MARGIN: Final = 0.006
_SPOT: Final = 5  # width of the square in which ink is compared, in pixels
_MAX_SPOT: Final = 0.5
_MIN_SUIT_SCORE: Final = 0.7
_MIN_SUIT_MARGIN: Final = 0.001

_SCALES: Final = (0.94, 1.0, 1.06)
_BLURS: Final = (0.4, 1.0)  # pixels; a blurred picture also stands for a thicker stroke
_GROUP: Final = 3  # templates that are compared in one matrix product
_LARGE_WINDOW: Final = (slice(17, 47), slice(10, 54))
_ROW_WINDOWS: Final = {
    place: (slice(round(height) - 8, round(height) + 8), slice(14, 50))
    for place, height in ROW_HEIGHTS.items()
}
_SUIT_WINDOW: Final = (slice(6, 18), slice(11, 21))


@dataclass(frozen=True)
class CardReading:
    """What is to be seen on a picture of a card.

    Attributes:
        numbers: The numbers, from top to bottom.
        places: Where each number stands.
        colour: The ink.
        suit: The symbol in the corners; None if it cannot be made out.
    """

    numbers: tuple[int, ...]
    places: tuple[Place, ...]
    colour: Colour
    suit: Suit | None


def read_card(image: UInt8[np.ndarray, "h w 3"]) -> CardReading | None:
    """Reads a card of any size.

    Args:
        image: An RGB picture.

    Returns:
        What is on it, or None if there is no whole, readable card.
    """
    picture = _resized(image)
    located = None if picture is None else _locate(picture)
    inked = None if located is None else _ink_of(located)
    if inked is None:
        return None
    numbers = _read_large(inked.ink) or _read_rows(inked.ink)
    if numbers is None:
        return None
    return CardReading(
        numbers=tuple(numbers.values()),
        places=tuple(numbers),
        colour=inked.colour,
        suit=_read_suit(inked.ink),
    )


def read_number(image: UInt8[np.ndarray, "h w 3"]) -> int | None:
    """Reads the number of a card, or None if it is unreadable or has not exactly one number."""
    reading = read_card(image)
    return reading.numbers[0] if reading is not None and len(reading.numbers) == 1 else None


def card_accuracy(
    images: UInt8[np.ndarray, "b h w 3"], numbers: Sequence[int] | Int[np.ndarray, " b"]
) -> float:
    """Measures how many pictures show the number that was asked for.

    Args:
        images: RGB pictures.
        numbers: The number that each picture was to show.

    Returns:
        The share of pictures on which that number is read; an unreadable picture counts as wrong.
    """
    if len(images) != len(numbers) or len(images) == 0:
        raise UserError(
            f"expected one number for each of at least one picture, got {len(images)} pictures and "
            f"{len(numbers)} numbers; pass as many numbers as pictures"
        )
    read = [read_number(image) for image in images]
    return sum(a == b for a, b in zip(read, numbers, strict=True)) / len(read)


def largest_spot(difference: Float[np.ndarray, "h w"]) -> float:
    """Returns how much ink, averaged over a small square, is in excess or missing anywhere.

    A shaky outline leaves thin lines, which average out; a stroke too many or too few does not.

    Args:
        difference: Ink that is there less ink that should be, in pixels of one card unit.
    """
    return float(np.abs(ndimage.uniform_filter(difference, _SPOT, mode="constant")).max())


def _resized(image: UInt8[np.ndarray, "h w 3"]) -> Picture | None:
    """Brings a square picture to the size at which it is read."""
    height, width, _ = image.shape
    if height != width or height < _SMALLEST:
        return None
    if height != _SIZE:
        resized = Image.fromarray(image).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
        image = np.asarray(resized)
    return image.astype(np.float32)


class _Located(NamedTuple):
    """A picture moved so that its card lies where cards are drawn.

    Attributes:
        picture: The moved picture, in 0..255.
        paper: Colour of the paper.
        contrast: Distance in RGB between paper and table.
    """

    picture: Picture
    paper: Float[np.ndarray, "3"]
    contrast: float


def _locate(picture: Picture) -> _Located | None:
    """Finds the card and checks that its frame is whole; None if it is not."""
    edge, inside = _edge_and_inside()
    table, paper = np.median(picture[edge], axis=0), np.median(picture[inside], axis=0)
    contrast = float(np.linalg.norm(paper - table))
    if contrast < _MIN_CONTRAST or paper.min() < _MIN_PAPER or np.ptp(paper) > _MAX_PAPER_TINT:
        return None
    paperness = (picture - table) @ (paper - table) / contrast**2
    x, y = _find_frame(paperness.astype(np.float32))
    moved = _moved(picture, -x, -y)
    from_table = np.linalg.norm(moved - table, axis=-1) / contrast
    from_paper = np.linalg.norm(moved - paper, axis=-1) / contrast
    whole = _is_bordered_by(from_table, outside=True) and _is_bordered_by(from_paper, outside=False)
    return _Located(moved, paper, contrast) if whole else None


def _is_bordered_by(error: Ink, outside: bool) -> bool:
    """Checks that one colour accompanies the border of the card all the way around.

    Each side is divided into pieces, and each piece into lines along the side. One good line is
    enough, so that a bent border passes while a piece of another colour does not.

    Args:
        error: Distance to the colour, relative to the contrast.
        outside: Whether to look at the table around the card or at the paper within.
    """
    left, top, right, bottom = (round(edge) for edge in CARD_BOX)
    depths = range(-_FRAME_LINES, 0) if outside else range(1, 1 + _FRAME_LINES)
    across, down = slice(left + 5, right - 5), slice(top + 4, bottom - 4)
    sides = (
        [error[top + depth, across] for depth in depths],
        [error[bottom - 1 - depth, across] for depth in depths],
        [error[down, left + depth] for depth in depths],
        [error[down, right - 1 - depth] for depth in depths],
    )
    pieces = np.concatenate(
        [np.stack(lines).reshape(len(depths), -1, _PIECE).mean(-1).min(0) for lines in sides]
    )
    return bool(pieces.max() < _MAX_FRAME_ERROR)


@lru_cache(maxsize=1)
def _edge_and_inside() -> tuple[Bool[np.ndarray, "64 64"], Bool[np.ndarray, "64 64"]]:
    """Returns the pixels that must be table and those most of which must be paper."""
    left, top, right, bottom = (round(edge) for edge in CARD_BOX)
    edge = np.ones((_SIZE, _SIZE), bool)
    edge[1:-1, 1:-1] = False
    inside = np.zeros((_SIZE, _SIZE), bool)
    inside[top + 5 : bottom - 5, left + 5 : right - 5] = True
    return edge, inside


def _find_frame(paperness: Ink) -> tuple[int, int]:
    """Returns the displacement `(x, y)` of the card in a map of 0 on the table and 1 on paper."""
    moves, frames, energies = _frames()
    errors = energies - 2 * frames @ paperness.ravel()
    return moves[int(np.argmin(errors))]


@lru_cache(maxsize=1)
def _frames() -> tuple[
    list[tuple[int, int]], Float[np.ndarray, "moves 4096"], Float[np.ndarray, " moves"]
]:
    """Draws the frame at every displacement, without the inside, which numbers may cover."""
    table, paper = np.array(TABLES["green"]), np.array(PAPER)
    axis = paper - table
    frame = ((blank_card("green", _SIZE) - table) @ axis / (axis @ axis)).astype(np.float32)
    left, top, right, bottom = (round(edge) for edge in CARD_BOX)
    margin = _CARD_REACH + 3
    band = np.ones((_SIZE, _SIZE), np.float32)
    band[top + margin : bottom - margin, left + margin : right - margin] = 0
    steps = range(-_CARD_REACH, _CARD_REACH + 1)
    moves = [(x, y) for y in steps for x in steps]
    frames = np.stack([(band * _moved(frame, x, y)).ravel() for x, y in moves])
    return moves, frames, (frames**2).sum(-1)


def _moved(array: np.ndarray, x: int, y: int) -> np.ndarray:
    """Moves a picture or map by whole pixels and repeats its edge where it leaves a gap."""
    positions = np.arange(_SIZE)
    rows, columns = np.clip(positions - y, 0, _SIZE - 1), np.clip(positions - x, 0, _SIZE - 1)
    return array[rows[:, None], columns]


class _Inked(NamedTuple):
    """The ink of a located card.

    Attributes:
        ink: 0 where there is paper, 1 where there is ink.
        colour: The ink that it is nearest to.
    """

    ink: Ink
    colour: Colour


def _ink_of(located: _Located) -> _Inked | None:
    """Separates ink from paper; None if there is no ink or too much of a third colour."""
    offset = located.picture - located.paper
    card = offset[7:57, 12:52]
    distance = np.linalg.norm(card, axis=-1)
    darkest = np.percentile(distance, 98.5)
    if darkest < _MIN_INK * located.contrast:
        return None
    axis = card[distance > 0.75 * darkest].mean(0)
    strength = float(np.linalg.norm(axis))
    ink = np.clip(offset @ (axis / strength**2), 0, 1.2)
    stray = np.linalg.norm(card - ink[7:57, 12:52, None] * axis, axis=-1).mean() / strength
    if strength < _MIN_INK * located.contrast or stray > _MAX_STRAY:
        return None
    return _Inked(ink, _nearest_colour(axis))


def _nearest_colour(axis: Float[np.ndarray, "3"]) -> Colour:
    """Names the ink whose difference from paper has the direction of `axis`."""

    def likeness(colour: Colour) -> float:
        difference = np.subtract(INKS[colour], PAPER)
        return float(difference @ axis / np.linalg.norm(difference))

    return max(INKS, key=likeness)


def _read_large(ink: Ink) -> dict[Place, int] | None:
    """Reads a number that stands alone in the centre."""
    numbers_ink = ink * _number_area()
    energy = float((numbers_ink**2).sum())
    if energy - float((numbers_ink[_LARGE_WINDOW] ** 2).sum()) > _MIN_ROW_ENERGY:
        return None
    number = _best_number(numbers_ink, "centre", True, energy)
    return None if number is None else {"centre": number}


def _read_rows(ink: Ink) -> dict[Place, int] | None:
    """Reads up to three numbers in rows; None if there is none or one of them is unreadable."""
    numbers_ink = ink * _number_area()
    numbers: dict[Place, int] = {}
    for place in PLACES:
        energy = float((numbers_ink[_ROW_WINDOWS[place]] ** 2).sum())
        if energy < _MIN_ROW_ENERGY:
            continue
        number = _best_number(numbers_ink, place, False, energy)
        if number is None:
            return None
        numbers[place] = number
    return numbers or None


@lru_cache(maxsize=1)
def _number_area() -> Ink:
    """Returns 1 on the paper within the border, 0 on the symbols and outside."""
    area = np.zeros((_SIZE, _SIZE), np.float32)
    area[8:56, 12:52] = 1
    area[:18, :21] = area[-18:, -21:] = 0
    return area


def _best_number(ink: Ink, place: Place, large: bool, energy: float) -> int | None:
    """Returns the number that explains the ink, or None if none does or two do alike.

    Args:
        ink: Ink of the numbers.
        place: Where the number must stand.
        large: Whether it must have the size of a lone number.
        energy: Sum of the squares of all the ink that the number has to explain.
    """
    window = _LARGE_WINDOW if large else _ROW_WINDOWS[place]
    patches = np.stack(list(_patches(ink, window, _NUMBER_REACH)))
    shape = patches.shape[1:]
    patches, templates = patches.reshape(len(patches), -1), _number_templates(large)
    scores = (templates @ patches.T).reshape(-1, len(patches)) / max(energy, 1e-6) ** 0.5
    template, patch = np.unravel_index(np.argmax(scores), scores.shape)
    expected = templates.reshape(len(scores), -1)[template]
    unexplained = patches[patch] - (patches[patch] @ expected) * expected
    if largest_spot(unexplained.reshape(shape)) > _MAX_SPOT:
        return None
    number_scores = scores.max(1).reshape(-1, MAX_NUMBER + 1).max(0)
    return _clear_winner(number_scores, _MIN_SCORE, _MIN_MARGIN)


def _clear_winner(
    scores: Float[np.ndarray, " n"], min_score: float, min_margin: float
) -> int | None:
    """Returns the position of the highest score if it is high, and well above the second."""
    second, first = np.partition(scores, -2)[-2:]
    clear = first >= min_score and first - second >= min_margin
    return int(np.argmax(scores)) if clear else None


def _patches(ink: Ink, window: tuple[slice, slice], reach: int) -> Iterator[np.ndarray]:
    """Yields the ink in a window and in all its displacements up to `reach` pixels."""
    rows, columns = window
    steps = range(-reach, reach + 1)
    for y in steps:
        for x in steps:
            yield ink[rows.start + y : rows.stop + y, columns.start + x : columns.stop + x]


@lru_cache(maxsize=2)
def _number_templates(large: bool) -> Float[np.ndarray, "groups group pixels"]:
    """Draws every number at several scales and blurs as vectors of length 1.

    They come in small groups because BLAS multiplies small matrices on the calling thread. One
    large product would be spread over all cores, and is many times slower when they are busy.
    """
    window = _LARGE_WINDOW if large else _ROW_WINDOWS["centre"]
    numbers = range(MAX_NUMBER + 1)
    masks = [number_mask(number, "centre", large, (0, 0), _SIZE) for number in numbers]
    masks = [_scaled(mask, scale) for scale in _SCALES for mask in masks]
    templates = _templates(masks, window)
    return templates.reshape(-1, _GROUP, templates.shape[-1])


def _templates(
    masks: list[Ink], window: tuple[slice, slice]
) -> Float[np.ndarray, "templates pixels"]:
    """Cuts a window out of masks at each blur; vectors of length 1, masks fastest."""
    blurred = [ndimage.gaussian_filter(mask, blur) for blur in _BLURS for mask in masks]
    vectors = np.stack([mask[window].ravel() for mask in blurred])
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _scaled(mask: Ink, scale: float) -> Ink:
    """Scales a mask about the centre of the picture."""
    offset = (_SIZE - 1) / 2 * (1 - 1 / scale)
    return ndimage.affine_transform(mask, np.full(2, 1 / scale), offset, order=1)


def _read_suit(ink: Ink) -> Suit | None:
    """Reads the symbol off both corners together; None if it is not clear."""
    templates = _suit_templates()
    corners = (ink, ink[::-1, ::-1])
    scores = np.mean([_corner_scores(corner, templates) for corner in corners], axis=0)
    suit = _clear_winner(scores, _MIN_SUIT_SCORE, _MIN_SUIT_MARGIN)
    return None if suit is None else SUITS[suit]


def _corner_scores(
    ink: Ink, templates: Float[np.ndarray, "templates pixels"]
) -> Float[np.ndarray, " suits"]:
    """Compares the upper left corner with each suit."""
    patches = np.stack([patch.ravel() for patch in _patches(ink, _SUIT_WINDOW, _SUIT_REACH)])
    lengths = np.maximum(np.linalg.norm(patches, axis=-1, keepdims=True), 1.0)
    return (patches @ templates.T / lengths).max(0).reshape(-1, len(SUITS)).max(0)


@lru_cache(maxsize=1)
def _suit_templates() -> Float[np.ndarray, "templates pixels"]:
    """Draws the upper left symbol of every suit."""
    return _templates([suit_mask(suit, _SIZE) for suit in SUITS], _SUIT_WINDOW)

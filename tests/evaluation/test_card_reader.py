from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from igpt_jax.data.cards import PAPER, PLACES, TABLES, Card, CardsConfig, CardSource, draw_card
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import card_accuracy, read_card, read_number

HALVES = (
    np.s_[:, :32],
    np.s_[:, 32:],
    np.s_[:32],
    np.s_[32:],
)


def validation_cards(count: int, **config: int) -> tuple[list[Card], np.ndarray]:
    """Draws the first cards of a validation split."""
    source = CardSource(CardsConfig(**config), "validation")
    cards = [source.card(index) for index in range(count)]
    return cards, np.stack([source[index]["image"] for index in range(count)])


def degraded(
    image: np.ndarray, seed: int, blur: float = 0.0, noise: float = 0.0, contrast: float = 1.0
) -> np.ndarray:
    """Blurs a picture (pixels), flattens its contrast and adds noise (of 255)."""
    blurred = ndimage.gaussian_filter(image.astype(np.float32), (blur, blur, 0))
    flat = blurred * contrast + (1 - contrast) * 128
    noisy = flat + np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def first_numbers(cards: list[Card]) -> list[int]:
    return [card.numbers[0] for card in cards]


COUNTS = [200, pytest.param(1_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_real_cards_are_read(count: int):
    cards, images = validation_cards(count)
    assert card_accuracy(images, first_numbers(cards)) >= 0.995


@pytest.mark.parametrize("count", COUNTS)
def test_blurred_noisy_cards_are_read(count: int):
    cards, images = validation_cards(count)
    images = np.stack([degraded(image, i, 0.8, 10) for i, image in enumerate(images)])
    assert card_accuracy(images, first_numbers(cards)) >= 0.98


@pytest.mark.parametrize(
    "damage",
    [
        {"blur": 1.0, "noise": 15.0},
        {"noise": 20.0},
        {"blur": 0.6, "noise": 10.0, "contrast": 0.6},
    ],
    ids=str,
)
def test_worse_pictures_are_read(damage: dict[str, float]):
    cards, images = validation_cards(100)
    images = np.stack([degraded(image, i, **damage) for i, image in enumerate(images)])
    assert card_accuracy(images, first_numbers(cards)) >= 0.98


@pytest.mark.parametrize("shift", [(3, -3), (-3, 3), (3, 3)])
def test_shifted_pictures_are_read(shift: tuple[int, int]):
    cards, images = validation_cards(100)
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    y, x = 3 - shift[1], 3 - shift[0]
    images = padded[:, y : y + 64, x : x + 64]
    assert card_accuracy(images, first_numbers(cards)) >= 0.98


def test_slightly_bent_pictures_are_read():
    cards, images = validation_cards(100)
    rng = np.random.default_rng(0)
    for image in images:
        field = ndimage.gaussian_filter(rng.normal(size=(2, 64, 64)), (0, 6, 6))
        grid = np.mgrid[:64, :64] + 0.6 * field / field.std()
        for channel in range(3):
            source = image[..., channel].copy()
            image[..., channel] = ndimage.map_coordinates(source, grid, order=1, mode="nearest")
    assert card_accuracy(images, first_numbers(cards)) >= 0.95


@pytest.mark.parametrize("image_size", [32, 48, 128, 256])
def test_other_sizes_are_read(image_size: int):
    cards, images = validation_cards(50, image_size=image_size)
    assert card_accuracy(images, first_numbers(cards)) >= 0.99


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("damage", [{}, {"blur": 0.8, "noise": 10.0}], ids=str)
def test_cards_with_several_numbers_are_read(count: int, damage: dict[str, float]):
    cards, images = validation_cards(100, min_numbers=count, max_numbers=count)
    readings = [read_card(degraded(image, i, **damage)) for i, image in enumerate(images)]
    right = [
        reading is not None and (reading.numbers, reading.places) == (card.numbers, card.places)
        for reading, card in zip(readings, cards, strict=True)
    ]
    assert np.mean(right) >= 0.97
    assert all(read_number(image) is None for image in images[:20])


def test_every_number_is_read():
    images = np.stack([draw_card(Card((number,))) for number in range(101)])
    assert card_accuracy(images, np.arange(101)) == 1.0


def test_suit_colour_and_places_are_read():
    cards, images = validation_cards(100)
    for card, image in zip(cards, images, strict=True):
        reading = read_card(image)
        assert reading is not None
        assert reading.suit == card.suit
        assert reading.colour == card.colour
        assert reading.places == card.places


def test_a_lone_number_in_a_row_is_read():
    for place in PLACES[::2]:
        reading = read_card(draw_card(Card((42,), (place,))))
        assert reading is not None
        assert (reading.numbers, reading.places) == ((42,), (place,))


def test_pictures_without_a_card_are_unreadable():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (100, 64, 64, 3)).astype(np.uint8)
    blobs = ndimage.gaussian_filter(rng.normal(size=noise.shape), (0, 3, 3, 0))
    blobs = np.clip(128 + 900 * blobs, 0, 255)
    colours = [(0, 0, 0), (255, 255, 255), PAPER, *TABLES.values(), *rng.integers(0, 256, (50, 3))]
    flat = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    assert all(read_card(image) is None for image in (*noise, *blobs.astype(np.uint8), *flat))


@pytest.mark.parametrize("damage", [{}, {"blur": 0.6, "noise": 15.0}], ids=str)
def test_cards_without_a_number_are_unreadable(damage: dict[str, float]):
    _, images = validation_cards(50)
    for seed, image in enumerate(images):
        image[17:47, 11:53] = PAPER
        assert read_card(degraded(image, seed, **damage)) is None


FILLINGS: dict[str, Callable[[np.random.Generator, Card, np.ndarray], object]] = {
    "noise": lambda rng, _, half: rng.integers(0, 256, half.shape),
    "grey noise": lambda rng, _, half: np.clip(rng.normal(128, 40, half.shape), 0, 255),
    "black": lambda *_: 0,
    "white": lambda *_: 255,
    "paper": lambda *_: PAPER,
    "table": lambda _, card, __: TABLES[card.background],
    "any colour": lambda rng, *_: rng.integers(0, 256, 3),
    "mean": lambda _, __, half: half.mean((0, 1)),
}


@pytest.mark.parametrize("filling", FILLINGS)
def test_half_cards_are_unreadable(filling: str):
    cards, images = validation_cards(40)
    rng = np.random.default_rng(0)
    for seed, (card, image) in enumerate(zip(cards, images, strict=True)):
        half = HALVES[seed % 4]
        image[half] = FILLINGS[filling](rng, card, image[half])
        assert read_card(image) is None
        assert read_card(degraded(image, seed, 0.8, 8)) is None


@pytest.mark.parametrize("half", [np.s_[18:46, 11:32], np.s_[18:46, 32:53]], ids=("first", "last"))
def test_a_missing_digit_is_unreadable(half: tuple[slice, slice]):
    for number in range(10, 100, 3):
        image = draw_card(Card((number,)))
        image[half] = PAPER
        assert read_card(image) is None


def test_an_extra_number_is_unreadable():
    for number in range(101):
        image = draw_card(Card((number,)))
        image[46:57] = np.minimum(image, draw_card(Card((55,), ("bottom",))))[46:57]
        assert read_card(image) is None


def test_turned_and_inverted_cards_are_unreadable():
    _, images = validation_cards(50)
    assert all(read_card(255 - image) is None for image in images)
    assert all(read_card(image.swapaxes(0, 1)) is None for image in images)


def test_pictures_that_are_not_square_or_too_small_are_unreadable():
    image = draw_card(Card((42,)))
    assert read_card(image[:, :60]) is None
    assert read_card(image[::4, ::4]) is None


def test_accuracy_counts_wrong_and_unreadable_pictures():
    images = np.stack([draw_card(Card((number,))) for number in (1, 2, 3, 4)])
    images[3] = 0
    assert card_accuracy(images, [1, 2, 30, 4]) == 0.5


@pytest.mark.parametrize("count", [0, 1])
def test_accuracy_needs_a_number_for_each_picture(count: int):
    images = np.zeros((count, 64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="as many numbers as pictures"):
        card_accuracy(images, [1] * (2 * count))


@pytest.mark.slow
def test_no_half_of_any_card_is_read():
    cards, images = validation_cards(1_000)
    rng = np.random.default_rng(1)
    for card, image in zip(cards, images, strict=True):
        for half in HALVES:
            for fill in FILLINGS.values():
                damaged = image.copy()
                damaged[half] = fill(rng, card, image[half])
                assert read_card(damaged) is None

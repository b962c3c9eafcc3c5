import dataclasses
from itertools import combinations, product
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from igpt_jax.data.card_faces import SUITS, Card, draw_card, number_mask, suit_mask
from igpt_jax.errors import UserError
from igpt_jax.evaluation.completion import (
    LARGE_NUMBER_BOX,
    Part,
    agrees_with_visible,
    completion_report,
    hidden_mask,
    number_agrees,
    number_box,
)
from igpt_jax.sampling.known import known_tokens

PARTS = get_args(Part)
GRIDS = [(8, 8), (16, 16)]
TWO_DIGITS = range(10, 100)
SHIFTS = [(0, 0), (1, -1), (-1, 1)]
VISIBLE_DIGIT = {"left": 1, "right": 0}
EVERY_PART = pytest.mark.parametrize(("part", "grid"), list(product(PARTS, GRIDS)))


def ink_of(number, shift=(0, 0)):
    return number_mask(number, "centre", True, shift, 64)


def visible_digit(number, part):
    return str(number)[VISIBLE_DIGIT[part]]


def completed(card, number, mask):
    """The card, with the hidden part taken from another one."""
    other = draw_card(dataclasses.replace(card, numbers=(number,)))
    return np.where(mask[..., None], other, draw_card(card))


@EVERY_PART
@pytest.mark.parametrize("image_size", [32, 64])
def test_masks_are_of_whole_tokens(part, grid, image_size):
    mask = hidden_mask(image_size, grid, part)
    known = known_tokens(grid, image_size, 1, mask, 0)
    assert mask.sum() == (~known).sum() * (image_size // grid[0]) * (image_size // grid[1])
    assert not mask.all()


@EVERY_PART
def test_about_half_of_a_large_number_is_hidden(part, grid):
    mask = hidden_mask(64, grid, part)
    for shift in SHIFTS:
        inks = [ink_of(number, shift) for number in TWO_DIGITS[::3]]
        shares = [ink[mask].sum() / ink.sum() for ink in inks]
        assert 0.4 < np.mean(shares) < 0.6
        assert min(shares) > 0.25
        assert max(shares) < 0.75


@pytest.mark.parametrize("grid", GRIDS)
def test_opposite_halves_hide_the_whole_number(grid):
    for first, second in (("left", "right"), ("top", "bottom")):
        halves = hidden_mask(64, grid, first), hidden_mask(64, grid, second)
        assert not (halves[0] & halves[1]).any()
        for number, shift in product(range(101), SHIFTS):
            assert ink_of(number, shift)[~(halves[0] | halves[1])].sum() == 0


@EVERY_PART
def test_suits_stay_visible(part, grid):
    mask = hidden_mask(64, grid, part)
    for suit in SUITS:
        ink = suit_mask(suit, 64)
        assert ink[mask].sum() < 0.05 * ink.sum()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("box", [(20.0, 20.0, 28.0, 28.0), (0.0, 0.0, 0.5, 0.5)], ids=str)
def test_cuts_are_next_to_the_middle(part, box):
    rows, columns = np.nonzero(hidden_mask(64, (64, 64), part, box))
    expected = {
        "left": (20, 24, 20, 28), "right": (24, 28, 20, 28), "centre": (22, 26, 20, 28),
        "top": (20, 28, 20, 24), "bottom": (20, 28, 24, 28),
    }[part] if box[0] else (0, 1, 0, 1)  # fmt: skip
    found = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    assert found == expected
    assert len(rows) == (expected[1] - expected[0]) * (expected[3] - expected[2])


def test_boxes_are_those_of_the_ink():
    for number, shift in product(range(101), SHIFTS):
        left, top, right, bottom = map(int, number_box(Card((number,), shift=shift)))
        ink = ink_of(number, shift)
        assert np.count_nonzero(ink[top:bottom, left:right]) == np.count_nonzero(ink)
        assert min(ink[top].max(), ink[bottom - 1].max()) > 0
        assert min(ink[:, left].max(), ink[:, right - 1].max()) > 0
        assert LARGE_NUMBER_BOX[0] <= left < right <= LARGE_NUMBER_BOX[2]
        assert LARGE_NUMBER_BOX[1] <= top < bottom <= LARGE_NUMBER_BOX[3]
    row = number_box(Card((42,), ("bottom",)))
    assert 40 < row[1] < row[3] < 56


@pytest.mark.parametrize("part", PARTS)
def test_originals_agree(part):
    cards = [
        Card((number,), suit=SUITS[number % 4], shift=SHIFTS[number % 3])
        for number in (0, 1, 4, 8, 100, *range(12, 100, 13))
    ]
    images = np.stack([draw_card(card) for card in cards])
    blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, 0.7, 0.7, 0))
    mask = hidden_mask(64, (8, 8), part)
    perfect = {"agrees": 1.0, "same_number": 1.0, "readable": 1.0}
    assert completion_report(images, cards, mask) == perfect
    assert completion_report(blurred.astype(np.uint8), cards, mask) == perfect


@pytest.mark.parametrize("part", VISIBLE_DIGIT)
@pytest.mark.parametrize(
    "shift",
    [
        (0, 0),
        *[pytest.param(shift, marks=pytest.mark.slow) for shift in product((-2, -1, 1, 2), (0, 2))],
    ],
    ids=str,
)
def test_the_visible_digit_decides(part, shift):
    mask = hidden_mask(64, (8, 8), part)
    for number in TWO_DIGITS:
        card = Card((number,), shift=shift)
        agreeing = {other for other in TWO_DIGITS if number_agrees(other, card, mask)}
        digit = visible_digit(number, part)
        assert agreeing == {other for other in TWO_DIGITS if visible_digit(other, part) == digit}


@pytest.mark.parametrize("part", ["centre", "top", "bottom"])
def test_wrong_numbers_agree_only_where_they_look_alike(part):
    mask = hidden_mask(64, (8, 8), part)
    alike = 0
    for number, other in combinations(TWO_DIGITS, 2):
        if not number_agrees(other, Card((number,)), mask):
            continue
        alike += 1
        difference = np.abs(ink_of(number) - ink_of(other))[~mask].sum()
        assert difference < 0.1 * ink_of(number)[~mask].sum()
    # Of 4,005: last digits 3 and 8 beside "centre", 0 and 6 below "top", 0 and 9 above "bottom".
    assert alike == 9


@pytest.mark.parametrize("part", VISIBLE_DIGIT)
@pytest.mark.parametrize("image_size", [32, 64])
def test_completed_pictures_are_judged_by_the_visible_digit(part, image_size):
    mask = hidden_mask(image_size, (8, 8), part)
    rng = np.random.default_rng(0)
    for number, other in rng.integers(10, 100, (25, 2)).tolist():
        card = Card((number,), suit=SUITS[number % 4])
        image = np.asarray(draw_card(dataclasses.replace(card, numbers=(other,)), image_size))
        same = visible_digit(number, part) == visible_digit(other, part)
        assert agrees_with_visible(image, card, mask) == same


@pytest.mark.parametrize("part", VISIBLE_DIGIT)
def test_cards_put_together_of_two_agree_with_the_visible_one(part):
    mask = hidden_mask(64, (8, 8), part)
    rng = np.random.default_rng(1)
    pairs = [(a, b) for a, b in rng.integers(10, 100, (40, 2)).tolist()
             if visible_digit(a, part) != visible_digit(b, part)]  # fmt: skip
    cards, others = ([Card((pair[side],)) for pair in pairs] for side in (0, 1))
    images = np.stack([completed(card, b, mask) for card, (_, b) in zip(cards, pairs, strict=True)])
    report = completion_report(images, cards, mask)
    assert report["agrees"] == report["readable"] == 1
    hidden = 1 - VISIBLE_DIGIT[part]
    assert report["same_number"] == np.mean([str(a)[hidden] == str(b)[hidden] for a, b in pairs])
    assert completion_report(images, others, mask)["agrees"] == 0


@pytest.mark.parametrize(
    "shown",
    [
        Card((42,), suit="clubs"),
        Card((42,), colour="green"),
        Card((42,), ("top",)),
        Card((42, 42), ("top", "bottom")),
    ],
)
def test_other_traits_must_be_the_same(shown):
    mask = hidden_mask(64, (8, 8), "left")
    assert agrees_with_visible(draw_card(Card((42,))), Card((42,)), mask)
    assert not agrees_with_visible(draw_card(shown), Card((42,)), mask)


def test_unreadable_pictures_do_not_agree():
    cards = [Card((number,)) for number in (12, 34, 56, 78)]
    images = np.stack([draw_card(card) for card in cards])
    images[0] = 0
    images[1] = draw_card(Card((84,)))
    images[2] = draw_card(Card((57,)))
    report = completion_report(images, cards, hidden_mask(64, (8, 8), "left"))
    assert report == {"agrees": 0.5, "same_number": 0.25, "readable": 0.75}


def test_each_picture_may_have_a_mask_of_its_own():
    cards = [Card((5,)), Card((42,), ("top",))]
    masks = np.stack([hidden_mask(64, (16, 16), "right", number_box(card)) for card in cards])
    images = np.stack([draw_card(Card((5,))), draw_card(Card((47,), ("top",)))])
    assert completion_report(images, cards, masks) == {
        "agrees": 1, "same_number": 0.5, "readable": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="got 2 pictures, 1 cards and 2 masks"):
        completion_report(images, cards[:1], masks)


@pytest.mark.parametrize("grid", [(7, 8), (8, 7), (0, 8)])
def test_grids_that_do_not_fit_are_refused(grid):
    with pytest.raises(UserError, match="rows and columns that divide 64"):
        hidden_mask(64, grid, "left")


@pytest.mark.parametrize("box", [(30.0, 0.0, 30.0, 9.0), (0.0, 9.0, 9.0, 1.0), (0.0, 0.0, 9.0, 65)])
def test_boxes_without_room_are_refused(box):
    with pytest.raises(UserError, match="expected left < right"):
        hidden_mask(64, (8, 8), "left", box)


def test_what_cannot_be_judged_is_refused():
    card, image = Card((1, 2), ("top", "bottom")), np.zeros((64, 64, 3), np.uint8)
    mask = hidden_mask(64, (8, 8), "left")
    for judge in (
        lambda: agrees_with_visible(image, card, mask),
        lambda: number_agrees(1, card, mask),
        lambda: number_box(card),
    ):
        with pytest.raises(UserError, match="expected cards with one number"):
            judge()
    with pytest.raises(UserError, match="at least one picture, got 0 pictures"):
        completion_report(image[None][:0], [], mask)
    with pytest.raises(UserError, match="expected a square"):
        number_agrees(1, Card((1,)), mask[:60])

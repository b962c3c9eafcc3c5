import json
import pickle
from collections import Counter
from dataclasses import astuple, replace
from hashlib import sha256

import numpy as np
import pytest

from igpt_jax.data.card_captions import caption, num_wordings
from igpt_jax.data.cards import (
    INKS,
    PLACES,
    SUITS,
    TABLES,
    Card,
    CardsConfig,
    CardSource,
    card_at,
    combination,
    draw_card,
    number_mask,
)
from igpt_jax.data.held_out import is_held_out
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict


def test_the_default_source_has_the_sizes_of_its_config():
    assert len(CardSource()) == 50_000
    assert len(CardSource(split="validation")) == 1_000
    assert CardSource().num_classes == 101
    assert CardSource().class_names[:2] == ("0", "1")
    assert CardSource(CardsConfig(max_number=9)).class_names[-1] == "9"


@pytest.mark.parametrize("image_size", [32, 64, 100, 256])
def test_an_example_is_a_picture_and_the_number_on_it(image_size: int):
    source = CardSource(CardsConfig(image_size=image_size))
    example = source[7]
    assert example["image"].shape == (image_size, image_size, 3)
    assert example["image"].dtype == np.uint8
    assert type(example["label"]) is int
    assert example["label"] == source.card(7).numbers[0]


@pytest.mark.parametrize("index", [0, 1, 49_999])
def test_an_index_always_gives_the_same_picture(index: int):
    one, other = CardSource(), pickle.loads(pickle.dumps(CardSource()))
    other[3]
    np.testing.assert_array_equal(one[index]["image"], other[index]["image"])


def test_a_drawn_picture_may_be_written_to_without_changing_the_next():
    source = CardSource()
    first = source[0]["image"]
    original = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(source[0]["image"], original)


def test_a_card_does_not_depend_on_the_size_of_the_data_set_or_picture():
    config = CardsConfig()
    other = replace(config, num_cards=10, num_validation=20, image_size=128)
    assert card_at(config, 5, "train") == card_at(other, 5, "train")


def test_the_cards_of_the_first_indices_are_fixed():
    numbers = [card_at(CardsConfig(), index, "train").numbers[0] for index in range(8)]
    assert numbers == [54, 3, 7, 23, 8, 90, 36, 52]


def test_seeds_and_splits_are_different_streams():
    def cards(seed: int, split: str) -> list[Card]:
        return [card_at(CardsConfig(seed=seed), index, split) for index in range(200)]

    train, validation, other = cards(0, "train"), cards(0, "validation"), cards(1, "train")
    for one, two in ((train, validation), (train, other), (validation, other)):
        assert sum(a == b for a, b in zip(one, two, strict=True)) <= 2


def test_every_number_is_drawn_equally_often_with_every_suit_ink_and_table():
    source = CardSource()
    cards = [source.card(index) for index in range(5_050)]
    counts = np.bincount([card.numbers[0] for card in cards], minlength=101)
    assert len(counts) == 101
    assert 25 <= counts.min() <= counts.max() <= 85
    assert {card.suit for card in cards} == set(SUITS)
    assert {card.colour for card in cards} == set(INKS)
    assert {card.background for card in cards} == set(TABLES)
    assert {card.shift for card in cards} == {(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)}


def test_cards_with_up_to_three_numbers_have_one_place_for_each():
    source = CardSource(CardsConfig(max_numbers=3))
    cards = [source.card(index) for index in range(500)]
    assert {len(card.numbers) for card in cards} == {1, 2, 3}
    assert all(len(card.places) == len(card.numbers) for card in cards)
    assert {card.places for card in cards if len(card.numbers) == 2} == {
        ("top", "centre"),
        ("top", "bottom"),
        ("centre", "bottom"),
    }
    assert all(source[i]["label"] == card.numbers[0] for i, card in enumerate(cards[:20]))


@pytest.mark.parametrize(
    ("image_size", "place", "large"),
    [(32, "centre", True), (64, "centre", True), (64, "top", False), (128, "bottom", False)],
)
def test_any_two_numbers_look_different(image_size: int, place, large: bool):
    masks = np.stack([number_mask(n, place, large, (0, 0), image_size) for n in range(101)])
    masks = masks.reshape(101, -1)
    inner = masks @ masks.T
    energy = np.diag(inner)
    distance = energy[:, None] + energy[None] - 2 * inner + np.diag(np.full(101, np.inf))
    assert distance.min() > 2


@pytest.mark.parametrize("number", [0, 8, 42, 88, 100])
@pytest.mark.parametrize("shift", [(-2, -2), (2, 2)])
def test_a_number_stays_on_the_paper(number: int, shift: tuple[int, int]):
    rows, columns = np.nonzero(number_mask(number, "centre", True, shift, 64))
    assert rows.min() >= 15
    assert rows.max() <= 48
    assert columns.min() >= 10
    assert columns.max() <= 53


def test_a_number_is_centred_and_moves_with_its_shift():
    def centre(shift: tuple[int, int]) -> np.ndarray:
        mask = number_mask(0, "centre", True, shift, 64)
        return np.array([(mask.sum(axis) @ np.arange(64)) / mask.sum() for axis in (0, 1)])

    np.testing.assert_allclose(centre((0, 0)), 31.5, atol=0.3)
    np.testing.assert_allclose(centre((1, -1)) - centre((0, 0)), (1, -1), atol=0.05)


@pytest.mark.parametrize("colour", INKS)
def test_a_card_has_its_colours(colour):
    image = draw_card(Card((8,), colour=colour, background="navy"))
    pixels = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
    assert INKS[colour] in pixels
    assert tuple(image[0, 0].tolist()) == TABLES["navy"]


def test_each_trait_changes_the_picture():
    card = Card((42,))
    changed = (
        replace(card, numbers=(43,)),
        replace(card, places=("top",)),
        replace(card, suit="spades"),
        replace(card, colour="blue"),
        replace(card, background="walnut"),
        replace(card, shift=(1, 0)),
    )
    assert all((draw_card(card) != draw_card(other)).any() for other in changed)


@pytest.mark.parametrize("index", [-1, 1_000, 10**9])
def test_an_index_out_of_bounds_is_an_index_error(index: int):
    with pytest.raises(IndexError, match=r"0\.\.999"):
        CardSource(split="validation")[index]


def test_numpy_integers_are_indices():
    assert CardSource()[np.int64(3)]["label"] == CardSource()[3]["label"]


def test_iteration_ends():
    assert len(list(CardSource(CardsConfig(num_cards=5)))) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_cards": 0},
        {"num_validation": 0},
        {"image_size": 16},
        {"image_size": 512},
        {"min_numbers": 0},
        {"min_numbers": 2},
        {"max_numbers": 4},
        {"max_number": 101},
        {"max_number": -1},
        {"jitter": -1},
        {"jitter": 3},
        {"seed": -1},
        {"held_out_share": 1.0},
        {"held_out_share": -0.1},
        {"held_out_share": float("nan")},
    ],
)
def test_a_wrong_config_is_a_user_error_of_one_line(wrong: dict):
    with pytest.raises(UserError, match=r"^expected .*, got .*; change .*$") as error:
        CardsConfig(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"numbers": ()},
        {"numbers": (101,)},
        {"numbers": (1, 2)},
        {"numbers": (1, 2), "places": ("bottom", "top")},
        {"numbers": (1, 2), "places": ("top", "top")},
        {"shift": (3, 0)},
    ],
)
def test_a_wrong_card_is_a_user_error(wrong):
    with pytest.raises(UserError, match="expected"):
        Card(**{"numbers": (1,), **wrong})


def test_captions_name_everything_in_english():
    card = Card((42, 7, 100), PLACES, "clubs", "blue")
    for wording in range(num_wordings("en")):
        text = caption(card, "en", wording)
        for part in ("42 at the top", "7 in the centre", "100 at the bottom", "clubs", "blue"):
            assert part in text
    assert caption(Card((42,))) == "a red card of hearts with the number 42 in the centre"


def test_captions_name_everything_in_chinese():
    card = Card((42, 7), ("top", "bottom"), "spades", "green")
    for wording in range(num_wordings("zh")):
        text = caption(card, "zh", wording)
        assert all(part in text for part in ("上方", "42", "下方", "7", "黑桃", "绿色"))
    assert caption(Card((42,)), "zh") == "一张红色的红桃牌，中间写着数字42"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_wordings_differ_and_repeat(language):
    count = num_wordings(language)
    texts = [caption(Card((42,)), language, wording) for wording in range(count)]
    assert len(set(texts)) == count >= 4
    assert caption(Card((42,)), language, count) == texts[0]


def test_what_is_drawn_stays_as_it_was_before_captions_and_held_out_combinations():
    digest = sha256()
    for config in (CardsConfig(), CardsConfig(max_numbers=3, jitter=2, seed=5)):
        for split in ("train", "validation"):
            for index in (*range(500), 2**63):
                digest.update(json.dumps(astuple(card_at(config, index, split))).encode())
    assert digest.hexdigest() == (
        "698fee9886f0a8e1dbbedf74932d6f23bfc96199a0e90bc2deb85db53e1c9357"
    )


def test_configs_from_before_captions_are_read():
    values = to_dict(CardsConfig(seed=3))
    del values["captions"], values["held_out_share"]
    assert from_dict(CardsConfig, values) == CardsConfig(seed=3)
    with pytest.raises(UserError, match="captions: expected one of none, en, zh, both, got 'de'"):
        from_dict(CardsConfig, {"captions": "de"})


def test_examples_have_captions_only_when_asked_for():
    assert CardSource()[0].keys() == {"image", "label"}
    assert CardSource().captions(0) == ()


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(("captions", "languages"), [("en", "en"), ("zh", "zh"), ("both", "en zh")])
def test_the_caption_of_an_example_is_one_of_its_wordings(split, captions, languages):
    source = CardSource(CardsConfig(captions=captions, image_size=32), split)
    wordings = [(name, i) for name in languages.split() for i in range(num_wordings(name))]
    drawn: Counter[int] = Counter()
    for index in range(300):
        example, card = source[index], source.card(index)
        texts = [caption(card, *wording) for wording in wordings]
        assert source.captions(index) == tuple(texts)
        drawn[texts.index(example["caption"])] += 1
    expected = 300 / len(wordings)
    assert len(drawn) == len(wordings)
    assert max(abs(count - expected) for count in drawn.values()) < 5 * expected**0.5


def test_captions_depend_on_the_index_alone_and_change_no_card():
    config = CardsConfig(captions="both", image_size=32)
    one, other = CardSource(config), pickle.loads(pickle.dumps(CardSource(config)))
    other[9]
    assert [one[i]["caption"] for i in range(20)] == [other[i]["caption"] for i in range(20)]
    assert all(one.card(i) == CardSource().card(i) for i in range(100))


@pytest.mark.parametrize(
    "options", [{}, {"max_number": 9}, {"max_numbers": 3, "max_number": 4}, {"seed": 9}]
)
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_no_training_card_is_of_a_held_out_combination(options, share):
    config = CardsConfig(held_out_share=share, **options)
    source = CardSource(config)
    drawn = [source.card(index) for index in range(1_000)]
    digests = [int(sha256(combination(card).encode()).hexdigest()[:16], 16) for card in drawn]
    assert min(digests) >= share * 2**64
    assert not any(source.is_held_out(index) for index in range(100))
    assert drawn[:100] == [card_at(config, index, "train") for index in range(100)]


def test_only_training_cards_of_held_out_combinations_are_drawn_again():
    plain, config = CardsConfig(), CardsConfig(held_out_share=0.2)
    validation = CardSource(config, "validation")
    held_out = 0
    for index in range(1_000):
        before, after = card_at(plain, index, "train"), card_at(config, index, "train")
        assert (before != after) == is_held_out(combination(before), 0.2)
        assert validation.card(index) == card_at(plain, index, "validation")
        held_out += validation.is_held_out(index)
    assert 150 < held_out < 250


def test_every_trait_is_still_trained_on():
    cards = [card_at(CardsConfig(held_out_share=0.5), i, "train") for i in range(2_000)]
    assert {card.numbers[0] for card in cards} == set(range(101))
    assert {(card.suit, card.colour) for card in cards} == {(s, c) for s in SUITS for c in INKS}


def test_a_combination_is_numbers_places_suit_and_colour():
    card = Card((42, 7), ("top", "bottom"), "clubs", "blue")
    assert combination(card) == "42@top+7@bottom|clubs|blue"
    assert combination(replace(card, background="navy", shift=(1, 2))) == combination(card)
    for change in ({"numbers": (42, 8)}, {"places": ("top", "centre")}, {"suit": "hearts"}):
        assert combination(replace(card, **change)) != combination(card)


def test_a_larger_share_holds_out_what_a_smaller_one_does():
    names = [f"name {i}" for i in range(2_000)]
    small, large = ({n for n in names if is_held_out(n, share)} for share in (0.1, 0.3))
    assert small < large
    assert (len(small) / 2_000, len(large) / 2_000) == pytest.approx((0.1, 0.3), abs=0.03)
    assert not any(is_held_out(name, 0.0) for name in names)
    assert all(is_held_out(name, 1.0) for name in names)


def test_nothing_left_to_train_on_is_a_user_error_of_one_line():
    config = CardsConfig(max_number=0, held_out_share=0.999999)
    with pytest.raises(UserError, match=r"none with 0\.999999 and max_number = 0") as error:
        CardSource(config)[0]
    assert "\n" not in str(error.value)
    assert CardSource(config, "validation").is_held_out(0)

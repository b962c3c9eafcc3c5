import dataclasses

import numpy as np
import pytest

from igpt_jax.data.card_captions import caption, num_wordings
from igpt_jax.data.card_faces import PLACES, Card, draw_card
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.errors import UserError
from igpt_jax.evaluation.faithfulness import caption_accuracy, card_faithfulness

ASKED = Card((12, 34, 56), PLACES, "spades", "blue")


def drawn(*cards):
    return np.stack([draw_card(card) for card in cards])


def changed(**traits):
    return dataclasses.replace(ASKED, **traits)


def validation(count, **config):
    source = CardSource(CardsConfig(**config), "validation")
    return [source.card(index) for index in range(count)], source


@pytest.mark.parametrize("image_size", [48, 64])
def test_true_pictures_are_faithful(image_size):
    cards, source = validation(60, max_numbers=3, image_size=image_size)
    images = np.stack([source[index]["image"] for index in range(60)])
    report = card_faithfulness(images, cards)
    assert min(report.values()) >= 0.95
    assert report.keys() == {
        "number", "numbers", "place", "suit", "colour", "all", "readable", "all_1", "all_2", "all_3"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        (changed(background="walnut", shift=(1, -1)), {}),
        (changed(suit="hearts"), {"suit": 0, "all": 0}),
        (changed(colour="green"), {"colour": 0, "all": 0}),
        (changed(numbers=(12, 34, 65)), {"number": 2 / 3, "numbers": 0, "all": 0}),
        (changed(numbers=(34, 12, 56)), {"number": 1 / 3, "numbers": 0, "all": 0}),
        (
            changed(numbers=(12, 56), places=("top", "bottom")),
            {"number": 2 / 3, "numbers": 0, "place": 0, "all": 0},
        ),
        (
            changed(numbers=(12, 34), places=("centre", "bottom")),
            {"number": 0, "numbers": 0, "place": 0, "all": 0},
        ),
    ],
)
def test_each_trait_is_judged_alone(shown, wrong):
    expected = dict.fromkeys(
        ["number", "numbers", "place", "suit", "colour", "all", "readable", "all_3"], 1.0
    )
    expected |= wrong | ({"all_3": 0} if wrong else {})
    assert card_faithfulness(drawn(shown), [ASKED]) == pytest.approx(expected)


def test_a_number_too_many_is_a_wrong_place():
    report = card_faithfulness(drawn(ASKED), [changed(numbers=(12, 56), places=("top", "bottom"))])
    assert (report["number"], report["numbers"], report["place"], report["all"]) == (1, 1, 0, 0)


def test_unreadable_pictures_are_wrong_everywhere():
    images = drawn(ASKED, Card((7,)), Card((8,)), Card((9, 10), ("top", "bottom")))
    images[1] = 0
    cards = [ASKED, Card((7,)), Card((8,)), Card((9, 11), ("top", "bottom"))]
    report = card_faithfulness(images, cards)
    assert report == pytest.approx(
        {
            "number": 5 / 7, "numbers": 0.5, "place": 0.75, "suit": 0.75, "colour": 0.75,
            "all": 0.5, "readable": 0.75, "all_1": 0.5, "all_2": 0, "all_3": 1,
        }
    )  # fmt: skip
    assert set(card_faithfulness(np.zeros_like(images), cards).values()) == {0.0}


def test_shuffled_cards_are_unfaithful():
    cards, source = validation(40, min_numbers=3, max_numbers=3)
    images = np.stack([source[index]["image"] for index in range(40)])
    report = card_faithfulness(images, cards[1:] + cards[:1])
    assert report["number"] < 0.1
    assert report["all"] == 0
    assert report["place"] > 0.9


def test_every_wording_is_right():
    cards, _ = validation(20, max_numbers=3)
    for language in ("en", "zh"):
        for wording in range(num_wordings(language)):
            captions = [caption(card, language, wording) for card in cards]
            assert caption_accuracy(captions, cards) == {"exact": 1, f"exact_{language}": 1}
            assert caption_accuracy(captions, cards, [language])["exact"] == 1


def test_captions_count_to_their_own_language():
    cards = [ASKED] * 5
    captions = [
        caption(ASKED, "en", 0),
        caption(ASKED, "zh", 0),
        caption(ASKED, "zh", 1)[:-1],
        "a blue card",
        "",
    ]
    assert caption_accuracy(captions, cards) == pytest.approx(
        {"exact": 2 / 5, "exact_en": 1 / 3, "exact_zh": 1 / 2}
    )
    assert caption_accuracy(captions[:2], cards[:2], ["en"]) == {
        "exact": 0.5, "exact_en": 1, "exact_zh": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("trait", "wrong_wordings"),
    [
        ({"suit": "clubs"}, 10),
        ({"colour": "red"}, 10),
        ({"numbers": (12, 34, 57)}, 10),
        ({"background": "navy"}, 2),  # one wording of each language names the table
        ({"shift": (1, 1)}, 0),
    ],
)
def test_captions_of_another_card_are_wrong(trait, wrong_wordings):
    other = changed(**trait)
    captions = [
        caption(other, language, wording)
        for language in ("en", "zh")
        for wording in range(num_wordings(language))
    ]
    accuracy = caption_accuracy(captions, [ASKED] * len(captions))["exact"]
    assert accuracy == pytest.approx(1 - wrong_wordings / len(captions))


@pytest.mark.parametrize("count", [0, 1])
def test_there_must_be_a_card_for_each(count):
    cards = [ASKED] * (2 * count)
    with pytest.raises(UserError, match=r"pass as many cards as pictures"):
        card_faithfulness(np.zeros((count, 64, 64, 3), np.uint8), cards)
    with pytest.raises(UserError, match=r"pass as many cards as captions"):
        caption_accuracy([""] * count, cards)

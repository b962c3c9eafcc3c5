"""How faithful pictures of cards are to what was asked, and captions to the cards they describe."""

import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np

from igpt_jax.data.card_captions import Language, caption, num_wordings
from igpt_jax.data.card_faces import Card
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import CardReading, read_card
from igpt_jax.typing import UInt8

_TRAITS: Final = ("numbers", "place", "suit", "colour", "all", "readable")


def card_faithfulness(
    images: UInt8[np.ndarray, "b h w 3"], cards: Sequence[Card]
) -> dict[str, float]:
    """Measures how many pictures show the card that was asked for.

    Args:
        images: RGB pictures; of true ones of 32 pixels with several numbers only 0.3 to 0.4 can be
            read, of those of 48 all.
        cards: What each picture was to show; its table and its shift do not matter.

    Returns:
        Shares in 0..1; an unreadable picture counts as wrong everywhere. `number`: of all numbers
        asked for, those that stand at their place. All others are shares of pictures: `numbers`,
        every number at its place; `place`, numbers at the places asked for and nowhere else;
        `suit`; `colour`; `all` of these; `readable`. Where such cards were asked for also `all_1`,
        `all_2` and `all_3`: `all` among the cards with so many numbers.

    Raises:
        UserError: no picture, or not one card for each.
    """
    _check_pairs("card_faithfulness", "picture", len(images), len(cards))
    readings = [read_card(image) for image in images]
    judged = [_judge(card, reading) for card, reading in zip(cards, readings, strict=True)]
    found = sum(_num_found(card, reading) for card, reading in zip(cards, readings, strict=True))
    report = {"number": found / sum(len(card.numbers) for card in cards)}
    report |= {trait: _share([right[trait] for right in judged]) for trait in _TRAITS}
    for count in sorted({len(card.numbers) for card in cards}):
        chosen = [
            right for card, right in zip(cards, judged, strict=True) if len(card.numbers) == count
        ]
        report[f"all_{count}"] = _share([right["all"] for right in chosen])
    return report


def caption_accuracy(
    captions: Sequence[str], cards: Sequence[Card], languages: Sequence[Language] = ("en", "zh")
) -> dict[str, float]:
    """Measures how many captions of pictures of cards are exactly right.

    A caption is right if it is one of the wordings of its card, letter for letter; wordings that
    name the table must name the right one.

    Args:
        captions: What a model wrote for each picture.
        cards: What each picture shows.
        languages: The languages whose wordings are right.

    Returns:
        `exact`: the share of right captions. Where a caption is written in it also `exact_en` and
        `exact_zh`: the share of right ones among those in English and in Chinese. A caption with a
        Chinese character counts as Chinese, any other as English.

    Raises:
        UserError: no caption, not one card for each, or a language that is not known.
    """
    _check_pairs("caption_accuracy", "caption", len(captions), len(cards))
    right = [text in _wordings(card, languages) for text, card in zip(captions, cards, strict=True)]
    report = {"exact": _share(right)}
    written = [_language(text) for text in captions]
    for language in sorted(set(written)):
        chosen = [is_right for is_right, its in zip(right, written, strict=True) if its == language]
        report[f"exact_{language}"] = _share(chosen)
    return report


def _check_pairs(name: str, what: str, count: int, num_cards: int) -> None:
    if count != num_cards or count == 0:
        raise UserError(
            f"{name}: expected one card for each of at least one {what}, got {count} {what}s and "
            f"{num_cards} cards; pass as many cards as {what}s"
        )


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def _num_found(card: Card, reading: CardReading | None) -> int:
    """Counts the numbers that stand at the place that was asked for."""
    if reading is None:
        return 0
    read = set(zip(reading.places, reading.numbers, strict=True))
    return len(read & set(zip(card.places, card.numbers, strict=True)))


def _judge(card: Card, reading: CardReading | None) -> dict[str, bool]:
    if reading is None:
        return dict.fromkeys(_TRAITS, False)
    right = {
        "numbers": _num_found(card, reading) == len(card.numbers),
        "place": reading.places == card.places,
        "suit": reading.suit == card.suit,
        "colour": reading.colour == card.colour,
    }
    return {**right, "all": all(right.values()), "readable": True}


def _wordings(card: Card, languages: Sequence[Language]) -> set[str]:
    return {
        caption(card, language, wording)
        for language in languages
        for wording in range(num_wordings(language))
    }


def _language(text: str) -> Language:
    """Tells English from Chinese by the characters."""
    is_chinese = any(unicodedata.name(letter, "").startswith("CJK") for letter in text)
    return "zh" if is_chinese else "en"

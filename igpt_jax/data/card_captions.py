"""Captions of playing cards in English and Chinese, for models that read text."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from igpt_jax.data.card_faces import Card
from igpt_jax.errors import UserError

Language: TypeAlias = Literal["en", "zh"]


@dataclass(frozen=True)
class Phrasebook:
    """The words of one language.

    Attributes:
        words: Names of suits, colours of ink, tables and places; tables have a prefix, since one of
            them shares its name with an ink.
        wordings: Sentences about `{suit}`, `{colour}`, `{table}`, and the numbers with their places
            either briefly, `{items}`, or as a whole phrase, `{phrase}`.
        item: One number at its place.
        phrase_item: One number at its place, within the phrase.
        phrase_one: The phrase about a lone number.
        phrase_many: The phrase about several numbers.
        comma: What separates all items but the last two.
        last_comma: What separates the last two items.
    """

    words: dict[str, str]
    wordings: tuple[str, ...]
    item: str
    phrase_item: str
    phrase_one: str
    phrase_many: str
    comma: str
    last_comma: str


_PHRASEBOOKS: Final[dict[Language, Phrasebook]] = {
    "en": Phrasebook(
        words={
            **{name: name for name in ("hearts", "diamonds", "clubs", "spades")},
            **{name: name for name in ("red", "black", "blue", "green")},
            **{f"table {name}": name for name in ("green", "navy", "burgundy")},
            "table walnut": "walnut",
            "top": "at the top",
            "centre": "in the centre",
            "bottom": "at the bottom",
        },
        wordings=(
            "a {colour} card of {suit} with {phrase}",
            "a card of {suit} that shows {items}, printed in {colour}",
            "a {colour} {suit} card on a {table} table, with {phrase}",
            "playing card: {suit}, {colour}, {items}",
            "{items}: a card of {suit} in {colour} ink",
        ),
        item="{number} {place}",
        phrase_item="{number} {place}",
        phrase_one="the number {items}",
        phrase_many="the numbers {items}",
        comma=", ",
        last_comma=" and ",
    ),
    "zh": Phrasebook(
        words={
            "hearts": "红桃",
            "diamonds": "方块",
            "clubs": "梅花",
            "spades": "黑桃",
            "red": "红色",
            "black": "黑色",
            "blue": "蓝色",
            "green": "绿色",
            "table green": "绿色",
            "table navy": "深蓝色",
            "table burgundy": "酒红色",
            "table walnut": "胡桃木色",
            "top": "上方",
            "centre": "中间",
            "bottom": "下方",
        },
        wordings=(
            "一张{colour}的{suit}牌，{phrase}",
            "一张用{colour}印制的{suit}扑克牌，{items}",
            "{table}的桌面上放着一张{colour}的{suit}牌，{phrase}",
            "扑克牌：{suit}，{colour}，{items}",
            "{phrase}的{suit}牌，颜色是{colour}",
        ),
        item="{place}是{number}",
        phrase_item="{place}写着数字{number}",
        phrase_one="{items}",
        phrase_many="{items}",
        comma="，",
        last_comma="，",
    ),
}


def num_wordings(language: Language = "en") -> int:
    """Returns how many different wordings `caption` knows in a language."""
    return len(phrasebook(language).wordings)


def caption(card: Card, language: Language = "en", wording: int = 0) -> str:
    """Describes a card: its suit, its colour and each number with its place.

    Args:
        card: The card.
        language: "en" or "zh".
        wording: Which sentence to use; counted modulo `num_wordings(language)`, so that any
            integer, a step or a random word, chooses one.

    Returns:
        One sentence, without a full stop.
    """
    book = phrasebook(language)
    phrase = book.phrase_one if len(card.numbers) == 1 else book.phrase_many
    return book.wordings[wording % len(book.wordings)].format(
        suit=book.words[card.suit],
        colour=book.words[card.colour],
        table=book.words[f"table {card.background}"],
        items=_items(card, book, book.item),
        phrase=phrase.format(items=_items(card, book, book.phrase_item)),
    )


def _items(card: Card, book: Phrasebook, template: str) -> str:
    """Lists every number of a card with its place."""
    items = [
        template.format(number=number, place=book.words[place])
        for number, place in zip(card.numbers, card.places, strict=True)
    ]
    *first, last = items
    return book.last_comma.join([book.comma.join(first), last]) if first else last


def phrasebook(language: Language) -> Phrasebook:
    """Returns the words of a language."""
    if language not in _PHRASEBOOKS:
        raise UserError(
            f"expected a language of {get_args(Language)}, got {language!r}; choose one of them"
        )
    return _PHRASEBOOKS[language]

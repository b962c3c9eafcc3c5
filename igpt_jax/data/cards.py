"""A data set of playing cards with numbers on them: the source that needs no download.

Every card is drawn on demand from `(seed, split, index)`, so the source has no files, any size
and any resolution.
"""

import operator
from dataclasses import dataclass
from typing import Final, Literal, SupportsIndex, TypeAlias, get_args

import numpy as np

from igpt_jax.data.attributes import AttributeConfig
from igpt_jax.data.card_captions import Language, caption, num_wordings
from igpt_jax.data.card_faces import (
    CARD_BOX,
    IMAGE_SIZES,
    INKS,
    MAX_JITTER,
    MAX_NUMBER,
    MAX_NUMBERS,
    PAPER,
    PLACES,
    ROW_HEIGHTS,
    SUITS,
    TABLES,
    UNITS,
    Card,
    Colour,
    Place,
    Suit,
    blank_card,
    draw_card,
    number_mask,
    require,
    suit_mask,
)
from igpt_jax.data.examples import Example, Split
from igpt_jax.data.held_out import is_held_out
from igpt_jax.data.random_words import random_words
from igpt_jax.errors import UserError
from igpt_jax.typing import Int

__all__ = [
    "CARD_BOX",
    "INKS",
    "MAX_NUMBER",
    "PAPER",
    "PLACES",
    "ROW_HEIGHTS",
    "SUITS",
    "TABLES",
    "UNITS",
    "Captions",
    "Card",
    "CardSource",
    "CardsConfig",
    "Colour",
    "Place",
    "Suit",
    "blank_card",
    "card_at",
    "card_attributes",
    "combination",
    "draw_card",
    "number_mask",
    "suit_mask",
]

Captions: TypeAlias = Literal["none", "en", "zh", "both"]

LANGUAGES: Final[dict[Captions, tuple[Language, ...]]] = {
    "none": (),
    "en": ("en",),
    "zh": ("zh",),
    "both": ("en", "zh"),
}
_CARD_STREAM, _CAPTION_STREAM = 0, 1
_MAX_DRAWS: Final = 4096  # before a training card is given up as held out in every case
_LAYOUTS: Final[dict[int, tuple[tuple[Place, ...], ...]]] = {
    1: (("centre",),),
    2: (("top", "bottom"), ("top", "centre"), ("centre", "bottom")),
    3: (PLACES,),
}
_NO_NUMBER: Final = "none"


@dataclass(frozen=True)
class CardsConfig:
    """What the cards of one data set look like and how many there are.

    Attributes:
        num_cards: Number of training cards.
        num_validation: Number of validation cards.
        image_size: Width and height of a picture, in pixels.
        min_numbers: Fewest numbers on a card.
        max_numbers: Most numbers on a card, at most 3.
        max_number: Largest number, at most 100; numbers are uniform over 0..max_number.
        jitter: Largest shift of the numbers in x and in y, in pixels of a 64-pixel card.
        seed: Chooses the data set; the same seed draws the same cards.
        captions: Language of the caption that comes with each picture; "both" mixes them evenly.
        held_out_share: Share of all combinations, see `combination`, of which no training card is
            drawn; validation cards are drawn of all. It is the same set for every seed.
        attributes: Whether every example also has its attributes, see `attribute_configs`.
    """

    num_cards: int = 50_000
    num_validation: int = 1_000
    image_size: int = 64
    min_numbers: int = 1
    max_numbers: int = 1
    max_number: int = 100
    jitter: int = 1
    seed: int = 0
    captions: Captions = "none"
    held_out_share: float = 0.0
    attributes: bool = False

    def __post_init__(self) -> None:
        sizes = f"image_size between {IMAGE_SIZES[0]} and {IMAGE_SIZES[-1]}"
        numbers = f"1 <= min_numbers <= max_numbers <= {MAX_NUMBERS}"
        require(self.num_cards >= 1, "num_cards of at least 1", self.num_cards)
        require(self.num_validation >= 1, "num_validation of at least 1", self.num_validation)
        require(self.image_size in IMAGE_SIZES, sizes, self.image_size)
        require(
            1 <= self.min_numbers <= self.max_numbers <= MAX_NUMBERS,
            numbers,
            (self.min_numbers, self.max_numbers),
        )
        require(
            0 <= self.max_number <= MAX_NUMBER, f"max_number in 0..{MAX_NUMBER}", self.max_number
        )
        require(0 <= self.jitter <= MAX_JITTER, f"jitter in 0..{MAX_JITTER}", self.jitter)
        require(0 <= self.seed < 2**64, "seed in 0..2**64-1", self.seed)
        require(self.captions in LANGUAGES, f"captions of {tuple(LANGUAGES)}", self.captions)
        require(0 <= self.held_out_share < 1, "held_out_share in [0, 1)", self.held_out_share)

    @property
    def attribute_configs(self) -> tuple[AttributeConfig, ...]:
        """The attributes of every example, in their order; () without `attributes`.

        They are the number at the top, in the centre and at the bottom, of which number n is the
        value n and the last value is none; then suit, colour and table. Whether a number is drawn
        large or in a row follows from the places.
        """
        if not self.attributes:
            return ()
        numbers = (*map(str, range(self.max_number + 1)), _NO_NUMBER)
        return (
            *(AttributeConfig(place, numbers) for place in PLACES),
            AttributeConfig("suit", SUITS),
            AttributeConfig("colour", tuple(INKS)),
            AttributeConfig("table", tuple(TABLES)),
        )


def card_attributes(config: CardsConfig, card: Card) -> Int[np.ndarray, " a"]:
    """The value of each of `CardsConfig.attribute_configs`, as int32."""
    written = dict(zip(card.places, map(str, card.numbers), strict=True))
    named = {place: written.get(place, _NO_NUMBER) for place in PLACES}
    named |= {"suit": card.suit, "colour": card.colour, "table": card.background}
    values = [each.values.index(named[each.name]) for each in config.attribute_configs]
    return np.array(values, np.int32)


def combination(card: Card) -> str:
    """Names the traits whose combination may be held out: numbers, places, suit and colour.

    Cards that differ in table or shift alone are of one combination.
    """
    numbers = "+".join(f"{n}@{place}" for n, place in zip(card.numbers, card.places, strict=True))
    return f"{numbers}|{card.suit}|{card.colour}"


def card_at(config: CardsConfig, index: int, split: Split) -> Card:
    """Chooses the card at `index` of a split.

    The choice depends on the seed, the split and the index alone. It takes raw words of a
    counter-based generator, whose stream NumPy promises never to change. A training card of a
    combination that is held out is drawn again, from words of its own; all others stay.

    Args:
        config: The data set.
        index: Position in the split; any non-negative integer below 2**64.
        split: Training and validation cards come from two independent streams.

    Returns:
        The card, with its numbers uniform over `0..config.max_number`.

    Raises:
        UserError: Every combination of a small data set is held out.
    """
    share = config.held_out_share if split == "train" else 0.0
    for attempt in range(_MAX_DRAWS):
        words = random_words(
            config.seed, index, 10, split=split, attempt=attempt, stream=_CARD_STREAM
        )
        card = _draw(config, words)
        if not is_held_out(combination(card), share):
            return card
    raise UserError(
        f"held_out_share: expected combinations that are left to train on, got none with {share} "
        f"and max_number = {config.max_number}; lower it or raise max_number"
    )


def _draw(config: CardsConfig, words: list[int]) -> Card:
    """Makes a card of ten random words."""
    count, layout, suit, colour, background, x, y, *numbers = words
    num_numbers = config.min_numbers + count % (config.max_numbers - config.min_numbers + 1)
    layouts = _LAYOUTS[num_numbers]
    shifts = 2 * config.jitter + 1
    return Card(
        numbers=tuple(word % (config.max_number + 1) for word in numbers[:num_numbers]),
        places=layouts[layout % len(layouts)],
        suit=SUITS[suit % len(SUITS)],
        colour=tuple(INKS)[colour % len(INKS)],
        background=tuple(TABLES)[background % len(TABLES)],
        shift=(x % shifts - config.jitter, y % shifts - config.jitter),
    )


def _wordings(config: CardsConfig) -> list[tuple[Language, int]]:
    """Every language and number of a wording that captions are chosen from."""
    languages = LANGUAGES[config.captions]
    return [(language, i) for language in languages for i in range(num_wordings(language))]


class CardSource:
    """Random access to the cards of one split, drawn on demand.

    The label of an example is the first number on its card; with `CardsConfig.captions` it also has
    a caption, in one of `captions`, always the same for an index; with `CardsConfig.attributes` the
    value of each attribute.

    Attributes:
        config: The data set.
        split: "train" or "validation".
    """

    def __init__(self, config: CardsConfig | None = None, split: Split = "train") -> None:
        require(split in get_args(Split), f"a split of {get_args(Split)}", split)
        self.config = config or CardsConfig()
        self.split: Split = split

    def __len__(self) -> int:
        return self.config.num_cards if self.split == "train" else self.config.num_validation

    def __getitem__(self, index: SupportsIndex) -> Example:
        card = self.card(index)
        image = draw_card(card, self.config.image_size)
        example: Example = {"image": image, "label": card.numbers[0]}
        if wordings := _wordings(self.config):
            position = operator.index(index)
            [word] = random_words(
                self.config.seed, position, 1, split=self.split, stream=_CAPTION_STREAM
            )
            example["caption"] = caption(card, *wordings[word % len(wordings)])
        if self.config.attributes:
            example["attributes"] = card_attributes(self.config, card)
        return example

    def __repr__(self) -> str:
        return f"CardSource(config={self.config!r}, split={self.split!r})"

    def card(self, index: SupportsIndex) -> Card:
        """Returns what is on the picture at `index`, for example to caption it.

        Raises:
            IndexError: If the index is negative or not below the length.
        """
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"expected a card index in 0..{len(self) - 1}, got {position}")
        return card_at(self.config, position, self.split)

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """Returns every wording of the card at `index` in the languages of the config."""
        card = self.card(index)
        return tuple(caption(card, *wording) for wording in _wordings(self.config))

    def is_held_out(self, index: SupportsIndex) -> bool:
        """Tells whether no training card is of the combination of the card at `index`."""
        return is_held_out(combination(self.card(index)), self.config.held_out_share)

    @property
    def num_classes(self) -> int:
        """Number of labels: one for each of 0..max_number."""
        return self.config.max_number + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label: the number itself."""
        return tuple(str(number) for number in range(self.num_classes))

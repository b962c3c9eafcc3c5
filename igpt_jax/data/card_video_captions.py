"""Captions of videos of cards in English and Chinese."""

from dataclasses import dataclass
from typing import Final

from igpt_jax.data.card_captions import Language, phrasebook
from igpt_jax.data.card_motions import CardVideo, Direction, Motion


@dataclass(frozen=True)
class _Phrases:
    """The words of one language that videos need besides those of cards.

    Attributes:
        directions: Where a card slides to.
        other: How a turned card ends that shows another number, `{last}`.
        same: How one ends that shows the same number.
        wordings: Sentences about each motion, of `{suit}`, `{colour}`, `{table}`, the numbers
            `{first}` and `{last}`, and `{direction}` or `{end}`.
    """

    directions: dict[Direction, str]
    other: str
    same: str
    wordings: dict[Motion, tuple[str, ...]]


_PHRASES: Final[dict[Language, _Phrases]] = {
    "en": _Phrases(
        directions={
            "left": "to the left",
            "right": "to the right",
            "up": "upwards",
            "down": "downwards",
        },
        other="shows {last}",
        same="shows {last} again",
        wordings={
            "count": (
                "a {colour} card of {suit} that counts up from {first} to {last}",
                "a {colour} {suit} card on a {table} table, counting from {first} to {last}",
                "playing card: {suit}, {colour}, the number rises by one from {first} to {last}",
                "counting from {first} to {last} on a card of {suit} in {colour} ink",
            ),
            "slide": (
                "a {colour} card of {suit} with the number {first} that slides {direction}",
                "a {colour} {suit} card, {first}, slides {direction} over a {table} table",
                "playing card: {suit}, {colour}, {first}, moving {direction}",
                "sliding {direction}: a card of {suit} with {first} in {colour} ink",
            ),
            "turn": (
                "a {colour} card of {suit} with the number {first} that turns over and {end}",
                "a {colour} {suit} card on a {table} table: {first}, it turns around and {end}",
                "playing card: {suit}, {colour}, {first}, turned over, then it {end}",
                "turning over: a card of {suit} with {first} in {colour} ink, which then {end}",
            ),
        },
    ),
    "zh": _Phrases(
        directions={"left": "向左", "right": "向右", "up": "向上", "down": "向下"},
        other="显示{last}",
        same="仍然显示{last}",
        wordings={
            "count": (
                "一张{colour}的{suit}牌，数字从{first}数到{last}",
                "{table}的桌面上放着一张{colour}的{suit}牌，从{first}数到{last}",
                "扑克牌：{suit}，{colour}，数字逐一增加，从{first}到{last}",
                "从{first}数到{last}的{suit}牌，颜色是{colour}",
            ),
            "slide": (
                "一张写着数字{first}的{colour}{suit}牌{direction}滑动",
                "{table}的桌面上，一张{colour}的{suit}牌{direction}滑动，数字是{first}",
                "扑克牌：{suit}，{colour}，{first}，{direction}移动",
                "{direction}滑动的{suit}牌，写着{first}，颜色是{colour}",
            ),
            "turn": (
                "一张写着数字{first}的{colour}{suit}牌翻转一圈，{end}",
                "{table}的桌面上，一张{colour}的{suit}牌，数字是{first}，翻过来再翻回去，{end}",
                "扑克牌：{suit}，{colour}，{first}，翻转后{end}",
                "翻转的{suit}牌，颜色是{colour}，先是{first}，然后{end}",
            ),
        },
    ),
}


def num_video_wordings(language: Language = "en") -> int:
    """Returns how many different wordings `video_caption` knows of each motion in a language."""
    phrasebook(language)
    return min(map(len, _PHRASES[language].wordings.values()))


def video_caption(video: CardVideo, language: Language = "en", wording: int = 0) -> str:
    """Describes a video: the card, what happens to it, and its numbers.

    Args:
        video: The video.
        language: "en" or "zh".
        wording: Which sentence to use; counted modulo `num_video_wordings(language)`.

    Returns:
        One sentence, without a full stop.

    Raises:
        UserError: There is no such language.
    """
    words, phrases = phrasebook(language).words, _PHRASES[language]
    card, first, last = video.cards[0], video.numbers[0], video.numbers[-1]
    end = phrases.same if first == last else phrases.other
    return phrases.wordings[video.motion][wording % num_video_wordings(language)].format(
        suit=words[card.suit],
        colour=words[card.colour],
        table=words[f"table {card.background}"],
        first=first,
        last=last,
        direction=phrases.directions[video.direction] if video.direction else "",
        end=end.format(last=last),
    )

"""A data set of videos of playing cards: the video source that needs no download.

Every video is drawn on demand from `(seed, split, index)`, as the cards of `igpt_jax.data.cards`.
"""

from dataclasses import dataclass
from typing import Final, SupportsIndex, get_args

from igpt_jax.data.card_captions import Language
from igpt_jax.data.card_faces import IMAGE_SIZES, INKS, MAX_NUMBER, SUITS, TABLES, Card, require
from igpt_jax.data.card_motions import (
    DIRECTIONS,
    MOTIONS,
    CardVideo,
    Direction,
    Motion,
    draw_video,
    is_face_seen,
)
from igpt_jax.data.card_video_captions import num_video_wordings, video_caption
from igpt_jax.data.cards import LANGUAGES, Captions
from igpt_jax.data.examples import Split, VideoExample, check_index
from igpt_jax.data.random_words import random_words

__all__ = [
    "DIRECTIONS",
    "MOTIONS",
    "CardVideo",
    "CardVideoSource",
    "CardVideosConfig",
    "Direction",
    "Motion",
    "card_video_at",
    "draw_video",
    "video_caption",
]

_VIDEO_STREAM, _CAPTION_STREAM = 2, 3  # cards have 0 and 1
_MAX_FRAMES: Final = 1024


@dataclass(frozen=True)
class CardVideosConfig:
    """What the videos of one data set look like and how many there are.

    Attributes:
        num_videos: Number of training videos.
        num_validation: Number of validation videos.
        image_size: Width and height of a frame, in pixels.
        num_frames: Frames of a video.
        motions: What happens in the videos, one of these in each: the number rises by one from
            frame to frame ("count"), the card slides over the table in one of four directions
            ("slide"), or turns over and back, with the same or another number ("turn").
        max_number: Largest number, at most 100.
        seed: Chooses the data set; the same seed draws the same videos.
        captions: Language of the caption that comes with each video; "both" mixes them evenly.
    """

    num_videos: int = 20_000
    num_validation: int = 1_000
    image_size: int = 64
    num_frames: int = 8
    motions: tuple[Motion, ...] = ("count",)
    max_number: int = MAX_NUMBER
    seed: int = 0
    captions: Captions = "none"

    def __post_init__(self) -> None:
        sizes = f"image_size between {IMAGE_SIZES[0]} and {IMAGE_SIZES[-1]}"
        known = len(set(self.motions)) == len(self.motions) and set(self.motions) <= set(MOTIONS)
        require(self.num_videos >= 1, "num_videos of at least 1", self.num_videos)
        require(self.num_validation >= 1, "num_validation of at least 1", self.num_validation)
        require(self.image_size in IMAGE_SIZES, sizes, self.image_size)
        require(
            1 <= self.num_frames <= _MAX_FRAMES, f"num_frames in 1..{_MAX_FRAMES}", self.num_frames
        )
        require(bool(self.motions) and known, f"motions of {MOTIONS}, each once", self.motions)
        require(
            0 <= self.max_number <= MAX_NUMBER, f"max_number in 0..{MAX_NUMBER}", self.max_number
        )
        require(
            "count" not in self.motions or self.num_frames <= self.max_number + 1,
            f"at most max_number + 1 = {self.max_number + 1} frames to count in",
            self.num_frames,
        )
        require(0 <= self.seed < 2**64, "seed in 0..2**64-1", self.seed)
        require(self.captions in LANGUAGES, f"captions of {tuple(LANGUAGES)}", self.captions)


def card_video_at(config: CardVideosConfig, index: int, split: Split) -> CardVideo:
    """Chooses the video at `index` of a split, by these, the seed and the config alone.

    Args:
        config: The data set.
        index: Position in the split; any non-negative integer below 2**64.
        split: Training and validation videos come from two independent streams.

    Returns:
        The video. Motion, suit, ink, table, direction and first number are uniform over what there
        is; half of the cards that turn over show the same number again.
    """
    motion_, suit, colour, background, first, second, coin, direction = random_words(
        config.seed, index, 8, split=split, stream=_VIDEO_STREAM
    )
    motion = config.motions[motion_ % len(config.motions)]
    start = first % _num_starts(config, motion)

    def card(number: int) -> Card:
        return Card(
            numbers=(number,),
            suit=SUITS[suit % len(SUITS)],
            colour=tuple(INKS)[colour % len(INKS)],
            background=tuple(TABLES)[background % len(TABLES)],
        )

    frames = range(config.num_frames)
    match motion:
        case "count":
            return CardVideo("count", tuple(card(start + frame) for frame in frames))
        case "slide":
            directions = tuple(DIRECTIONS)
            heading = directions[direction % len(directions)]
            return CardVideo("slide", (card(start),) * len(frames), heading)
        case "turn":
            end = _other_number(start, second, config.max_number) if coin % 2 else start
            middle = _first_after_back(config.num_frames)
            cards = (card(start),) * middle + (card(end),) * (config.num_frames - middle)
            return CardVideo("turn", cards)


class CardVideoSource:
    """Random access to the videos of one split, drawn on demand.

    The label of a video is its first number. With `CardVideosConfig.captions` it also has a
    caption, in one of `captions`, always the same for an index.

    Attributes:
        config: The data set.
        split: "train" or "validation".
    """

    def __init__(self, config: CardVideosConfig | None = None, split: Split = "train") -> None:
        require(split in get_args(Split), f"a split of {get_args(Split)}", split)
        self.config = config or CardVideosConfig()
        self.split: Split = split

    def __len__(self) -> int:
        return self.config.num_videos if self.split == "train" else self.config.num_validation

    def __getitem__(self, index: SupportsIndex, /) -> VideoExample:
        position = check_index(index, len(self))
        video = card_video_at(self.config, position, self.split)
        example: VideoExample = {
            "video": draw_video(video, self.config.image_size),
            "label": video.numbers[0],
        }
        if wordings := _wordings(self.config):
            [word] = random_words(
                self.config.seed, position, 1, split=self.split, stream=_CAPTION_STREAM
            )
            example["caption"] = video_caption(video, *wordings[word % len(wordings)])
        return example

    def __repr__(self) -> str:
        return f"CardVideoSource(config={self.config!r}, split={self.split!r})"

    def card_video(self, index: SupportsIndex) -> CardVideo:
        """Returns what is to be seen in the video at `index`.

        Raises:
            IndexError: If the index is negative or not below the length.
        """
        return card_video_at(self.config, check_index(index, len(self)), self.split)

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """Returns every wording of the video at `index` in the languages of the config."""
        video = self.card_video(index)
        return tuple(video_caption(video, *wording) for wording in _wordings(self.config))

    @property
    def num_classes(self) -> int:
        """Number of labels, one for each first number; if all videos count, the last are none."""
        return max(_num_starts(self.config, motion) for motion in self.config.motions)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label: the number itself."""
        return tuple(str(number) for number in range(self.num_classes))


def _num_starts(config: CardVideosConfig, motion: Motion) -> int:
    """How many first numbers leave room for the rest of the video."""
    return config.max_number + 1 - (config.num_frames - 1 if motion == "count" else 0)


def _other_number(number: int, word: int, max_number: int) -> int:
    """One of all the other numbers, if there are any."""
    return (number + 1 + word % max_number) % (max_number + 1) if max_number else number


def _first_after_back(num_frames: int) -> int:
    """The first frame of a turning card that is drawn after its back was to be seen."""
    seen = [is_face_seen(frame / max(num_frames - 1, 1)) for frame in range(num_frames)]
    hidden = [frame for frame, is_seen in enumerate(seen) if not is_seen]
    return hidden[0] if hidden else num_frames


def _wordings(config: CardVideosConfig) -> list[tuple[Language, int]]:
    """Every language and number of a wording that captions are chosen from."""
    languages = LANGUAGES[config.captions]
    return [(language, i) for language in languages for i in range(num_video_wordings(language))]

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from igpt_jax.data.card_faces import INKS, SUITS, TABLES, Card, draw_card
from igpt_jax.data.card_motions import card_back, draw_video
from igpt_jax.data.card_video_captions import num_video_wordings, video_caption
from igpt_jax.data.card_videos import (
    DIRECTIONS,
    CardVideo,
    CardVideosConfig,
    CardVideoSource,
    Motion,
    card_video_at,
)
from igpt_jax.data.cards import CardsConfig, card_at
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import read_card
from igpt_jax.serialization import from_dict, to_dict

ALL = CardVideosConfig(motions=("count", "slide", "turn"))


def videos(count: int, config: CardVideosConfig = ALL, split: str = "train") -> list[CardVideo]:
    return [card_video_at(config, index, split) for index in range(count)]


def only(motion: Motion, count: int, **changes) -> list[CardVideo]:
    return videos(count, CardVideosConfig(motions=(motion,), **changes))


def centre(frame: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Where the middle of all that is not table is, in x and y."""
    y, x = np.nonzero(np.abs(frame.astype(int) - table).max(-1) > 100)
    return np.array([x.min() + x.max(), y.min() + y.max()]) / 2


def test_an_example_is_a_video_and_its_first_number():
    source = CardVideoSource(replace(ALL, num_frames=5, image_size=40))
    assert (len(source), len(CardVideoSource(ALL, "validation"))) == (20_000, 1_000)
    for index in range(20):
        item = source[index]
        assert item["video"].shape == (5, 40, 40, 3)
        assert item["video"].dtype == np.uint8
        assert item["label"] == source.card_video(index).numbers[0]
        assert "caption" not in item
    for index in (-1, 20_000):
        with pytest.raises(IndexError, match=r"0\.\.19999"):
            source[index]


def test_a_card_that_counts_is_drawn_with_the_next_number_in_each_frame():
    for video in only("count", 200):
        first = video.numbers[0]
        assert video.numbers == tuple(range(first, first + 8))
        assert len({replace(card, numbers=(0,)) for card in video.cards}) == 1
    video = only("count", 1)[0]
    np.testing.assert_array_equal(draw_video(video), [draw_card(c) for c in video.cards])


def test_labels_are_the_numbers_that_a_video_can_start_with():
    config = CardVideosConfig(max_number=9, num_frames=4)
    source = CardVideoSource(config)
    assert source.num_classes == 7
    assert source.class_names == tuple("0123456")
    assert {video.numbers[0] for video in videos(200, config)} == set(range(7))
    mixed = replace(config, motions=("count", "turn"))
    assert CardVideoSource(mixed).num_classes == 10
    assert {video.numbers[0] for video in videos(400, mixed)} == set(range(10))


def test_a_card_that_slides_moves_evenly_where_it_is_said_to():
    found = set()
    for video in only("slide", 24):
        assert len(set(video.cards)) == 1
        assert video.direction is not None
        found.add(video.direction)
        frames = draw_video(replace(video, cards=video.cards))
        table = np.array(TABLES[video.cards[0].background])
        face = draw_card(video.cards[0])
        step = 3 * np.array(DIRECTIONS[video.direction])
        for number, frame in enumerate(frames):
            x, y = step * number - 10 * np.array(DIRECTIONS[video.direction])
            rows, columns = slice(max(y, 0), 64 + min(y, 0)), slice(max(x, 0), 64 + min(x, 0))
            moved = np.roll(face, (y, x), (0, 1))
            np.testing.assert_array_equal(frame[rows, columns], moved[rows, columns])
        whole = frames[3:5]  # no part of the card is outside of the picture
        centres = [centre(frame, table) for frame in whole]
        np.testing.assert_allclose(centres[1] - centres[0], step)
    assert found == set(DIRECTIONS)


def test_a_card_that_turns_shows_face_back_and_face():
    ends = Counter()
    for video in only("turn", 40):
        frames = draw_video(video)
        first, last = video.cards[0], video.cards[-1]
        ends[first.numbers == last.numbers] += 1
        assert replace(first, numbers=last.numbers) == last
        np.testing.assert_array_equal(frames[0], draw_card(first))
        np.testing.assert_array_equal(frames[-1], draw_card(last))
        back = card_back(first.colour, first.background, 64)
        middle = np.s_[12:52, 20:44]  # where the lattice evens out, narrower by a tenth or not
        difference = frames[3][middle].mean((0, 1)) - back[middle].mean((0, 1))
        assert np.abs(difference).max() < 8
        assert np.abs(frames[3][middle] - draw_card(first)[middle].mean((0, 1))).mean() > 50
        np.testing.assert_array_equal(frames[3], frames[4])
        paper = [(frame.min(-1) > 150).any(0).sum() for frame in frames[[0, 1, 2]]]
        assert paper[0] > paper[1] > paper[2] > 0
        table = np.array(TABLES[first.background])
        for frame in frames:  # the axis is in the middle
            assert abs(centre(frame, table)[0] - 31.5) <= 1
    assert min(ends.values()) > 8


def test_the_number_changes_behind_the_back():
    for num_frames in (3, 4, 5, 8, 9):
        for video in only("turn", 4, num_frames=num_frames):
            frames = draw_video(video)
            numbers = [read_card(frame) for frame in frames]
            read = [reading.numbers[0] for reading in numbers if reading is not None]
            assert read[0] == video.numbers[0]
            assert read[-1] == video.numbers[-1]
            assert len(read) < num_frames


def test_the_back_has_ink_in_a_frame_of_paper():
    back = card_back("blue", "walnut", 64)
    assert tuple(back[8, 32]) != tuple(back[6, 32])
    assert (back[6, 12:52].min(-1) > 240).all()
    inside = back[10:54, 16:48]
    ink = (np.abs(inside.astype(int) - INKS["blue"]).max(-1) < 30).mean()
    paper = (inside.min(-1) > 200).mean()
    assert 0.2 < ink < 0.8
    assert paper > 0.05


@pytest.mark.parametrize("image_size", [32, 33, 64, 256])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 16])
def test_every_size_and_length_is_drawn(image_size: int, num_frames: int):
    source = CardVideoSource(replace(ALL, image_size=image_size, num_frames=num_frames))
    for index in range(12):
        assert source[index]["video"].shape == (num_frames, image_size, image_size, 3)


def test_every_trait_is_drawn_evenly():
    found = videos(900)
    for values, kinds in [
        ([v.motion for v in found], ("count", "slide", "turn")),
        ([v.cards[0].suit for v in found], SUITS),
        ([v.cards[0].colour for v in found], tuple(INKS)),
        ([v.cards[0].background for v in found], tuple(TABLES)),
    ]:
        counts = Counter(values)
        assert set(counts) == set(kinds)
        assert max(counts.values()) < 1.25 * 900 / len(kinds)
    starts = np.bincount([v.numbers[0] for v in only("count", 900, max_number=16)], minlength=10)
    assert len(starts) == 10
    assert 60 <= starts.min() <= starts.max() <= 120


def test_an_index_always_gives_the_same_video():
    source = CardVideoSource(replace(ALL, captions="both"))
    copy = pickle.loads(pickle.dumps(source))
    for index in (0, 7, 19_999):
        np.testing.assert_array_equal(source[index]["video"], copy[index]["video"])
        assert source[index].get("caption") == copy[index].get("caption")
    changed = source[0]["video"]
    original = changed.copy()
    changed[:] = 0
    np.testing.assert_array_equal(source[0]["video"], original)
    larger = replace(ALL, num_videos=10, image_size=128)
    assert card_video_at(larger, 5, "train") == card_video_at(ALL, 5, "train")


def test_the_videos_of_the_first_indices_are_fixed():
    assert [(v.motion, v.numbers[0]) for v in videos(6)] == [
        ("turn", 70), ("slide", 59), ("count", 15), ("turn", 49), ("turn", 56), ("slide", 55),
    ]  # fmt: skip


def test_seeds_and_splits_and_cards_are_different_streams():
    train, validation = videos(300), videos(300, split="validation")
    other = videos(300, replace(ALL, seed=1))
    for one, two in ((train, validation), (train, other)):
        assert sum(a == b for a, b in zip(one, two, strict=True)) <= 2
        assert sum(a.cards[0] == b.cards[0] for a, b in zip(one, two, strict=True)) <= 2
    cards = [card_at(CardsConfig(), index, "train") for index in range(300)]
    assert sum(c.numbers == v.cards[0].numbers for c, v in zip(cards, train, strict=True)) < 12


def test_captions_tell_the_motion_the_card_and_the_numbers():
    def card(number: int) -> Card:
        return Card((number,), suit="hearts", colour="red", background="walnut")

    count = CardVideo("count", tuple(card(n) for n in range(17, 25)))
    slide = CardVideo("slide", (card(3),) * 2, "left")
    same, other = (CardVideo("turn", (card(5), card(n))) for n in (5, 80))
    assert video_caption(count) == "a red card of hearts that counts up from 17 to 24"
    assert video_caption(count, "zh") == "一张红色的红桃牌，数字从17数到24"
    assert video_caption(slide).endswith("with the number 3 that slides to the left")
    assert video_caption(slide, "zh") == "一张写着数字3的红色红桃牌向左滑动"
    assert video_caption(same).endswith("the number 5 that turns over and shows 5 again")
    assert video_caption(other).endswith("the number 5 that turns over and shows 80")
    assert video_caption(other, "zh") == "一张写着数字5的红色红桃牌翻转一圈，显示80"
    for language, words in (("en", ("red", "hearts")), ("zh", ("红色", "红桃"))):
        for video in (count, slide, same, other):
            texts = [video_caption(video, language, i) for i in range(num_video_wordings(language))]
            assert len(set(texts)) == num_video_wordings(language) == 4
            assert video_caption(video, language, 4) == texts[0]
            for text in texts:
                assert all(word in text for word in words)
                assert str(video.numbers[0]) in text
                assert "{" not in text
                assert video.motion == "slide" or str(video.numbers[-1]) in text


def test_videos_that_differ_in_what_captions_tell_have_different_captions():
    for language in ("en", "zh"):
        texts: dict[str, tuple] = {}
        for video in videos(250):
            card = video.cards[0]
            told = (video.motion, video.numbers[0], video.numbers[-1], video.direction)
            told += (card.suit, card.colour)
            for wording in range(num_video_wordings(language)):
                text = video_caption(video, language, wording)
                assert texts.setdefault(text, told) == told


def test_a_source_has_captions_of_its_languages():
    source = CardVideoSource(replace(ALL, captions="both"))
    chosen = Counter()
    for index in range(80):
        everything = source.captions(index)
        assert len(everything) == 8
        caption = source[index].get("caption")
        chosen[everything.index(caption)] += 1
    assert len(chosen) == 8
    english = CardVideoSource(replace(ALL, captions="en"))
    assert english[0].get("caption") in english.captions(0)
    assert CardVideoSource(ALL).captions(0) == ()


def test_wrong_values_are_told():
    for changes, match in [
        ({"num_videos": 0}, "num_videos"),
        ({"num_validation": 0}, "num_validation"),
        ({"image_size": 8}, "image_size"),
        ({"num_frames": 0}, "num_frames"),
        ({"motions": ()}, "motions"),
        ({"motions": ("turn", "turn")}, "each once"),
        ({"max_number": 101}, "max_number"),
        ({"max_number": 6}, "7 frames to count in"),
        ({"seed": -1}, "seed"),
    ]:
        with pytest.raises(UserError, match=match):
            CardVideosConfig(**changes)
    assert CardVideosConfig(max_number=6, motions=("turn",)).max_number == 6
    card = Card((1,))
    for values in [("count", ()), ("slide", (card,)), ("turn", (card,), "up")]:
        with pytest.raises(UserError, match="expected"):
            CardVideo(*values)


def test_the_smallest_numbers_are_enough_for_every_motion():
    config = replace(ALL, max_number=0, num_frames=1)
    assert {video.numbers for video in videos(30, config)} == {(0,)}


def test_a_config_is_stored_and_read_back():
    config = replace(ALL, captions="zh", seed=3)
    assert from_dict(CardVideosConfig, to_dict(config)) == config

import numpy as np
import pytest

from igpt_jax.data.card_faces import Card, draw_card
from igpt_jax.data.card_videos import CardVideosConfig, CardVideoSource
from igpt_jax.errors import UserError
from igpt_jax.evaluation.counting import counting_report


def counted(*rows: list[int]) -> np.ndarray:
    return np.stack([np.stack([draw_card(Card((n,))) for n in row]) for row in rows])


def drawn(count: int, **changes) -> tuple[np.ndarray, list[int]]:
    source = CardVideoSource(CardVideosConfig(**changes))
    items = [source[index] for index in range(count)]
    return np.stack([item["video"] for item in items]), [item["label"] for item in items]


def test_drawn_videos_are_all_right():
    videos, firsts = drawn(8)
    assert counting_report(videos, firsts) == {
        "frames_readable": 1.0,
        "steps_right": 1.0,
        "videos_right": 1.0,
        "first_right": 1.0,
    }
    assert "first_right" not in counting_report(videos[:1])


@pytest.mark.parametrize("image_size", [32, 100])
def test_other_sizes_are_read_too(image_size: int):
    videos, firsts = drawn(3, image_size=image_size, num_frames=4)
    assert set(counting_report(videos, np.array(firsts)).values()) == {1.0}


def test_each_wrong_step_counts_once():
    videos = counted([3, 4, 5, 7], [9, 8, 9, 10], [0, 1, 2, 3], [50, 50, 52, 51])
    report = counting_report(videos, [3, 8, 1, 50])
    assert report["frames_readable"] == 1.0
    assert report["steps_right"] == (2 + 2 + 3 + 0) / 12
    assert report["videos_right"] == 0.25
    assert report["first_right"] == 0.5


def test_an_unreadable_frame_makes_both_of_its_steps_wrong():
    videos = counted([3, 4, 5, 6, 7], [20, 21, 22, 23, 24])
    videos[0, 2] = 128
    videos[1, 0] = 0
    report = counting_report(videos, [3, 20])
    assert report["frames_readable"] == 0.8
    assert report["steps_right"] == (2 + 3) / 8
    assert report["videos_right"] == 0.0
    assert report["first_right"] == 0.5


def test_shuffled_frozen_backward_and_noisy_videos_fall():
    videos, firsts = drawn(6)
    order = np.array([0, 4, 2, 7, 5, 1, 3, 6])
    shuffled = counting_report(videos[:, order], firsts)
    frozen = counting_report(np.repeat(videos[:, :1], 8, axis=1), firsts)
    backward = counting_report(videos[:, ::-1], firsts)
    noise = np.random.default_rng(0).integers(0, 256, videos.shape, dtype=np.uint8)
    noisy = counting_report(noise, firsts)
    for report in (shuffled, frozen, backward):
        assert report["frames_readable"] == 1.0
        assert report["steps_right"] == report["videos_right"] == 0.0
    assert shuffled["first_right"] == frozen["first_right"] == 1.0
    assert backward["first_right"] == 0.0
    assert set(noisy.values()) == {0.0}


def test_wrong_input_is_told():
    videos = counted([1, 2])
    for wrong in (videos[:0], videos[:, :1]):
        with pytest.raises(UserError, match="at least one of at least two frames"):
            counting_report(wrong)
    with pytest.raises(UserError, match="one for each of 1 videos, got 2"):
        counting_report(videos, [1, 2])

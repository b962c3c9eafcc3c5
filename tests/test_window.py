"""The window over a long video, with stand-ins for the model: tokens are the frames' own values."""

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.window import Window

FRAME = 3  # tokens of a frame


def window_of(num_frames, ratio=1):
    latent = 1 + (num_frames - 1) // ratio
    return Window(num_frames, latent * FRAME, ratio, is_whole=ratio > 1)


def video_of(values):
    frames = np.asarray(values, np.uint8)[None, :, None, None, None]
    return np.broadcast_to(frames, (2, len(values), 2, 2, 3))


@pytest.mark.parametrize(
    ("num_frames", "ratio", "overlap"),
    [(4, 1, 2), (8, 1, 4), (2, 1, 1), (5, 2, 1), (9, 2, 3), (9, 4, 1), (17, 4, 5)],
)
def test_half_a_window_in_whole_tokens(num_frames, ratio, overlap):
    given = video_of(range(num_frames))
    assert window_of(num_frames, ratio).checked(given, 40, None) == overlap


@pytest.mark.parametrize(
    ("ratio", "given", "num_frames", "overlap", "message"),
    [
        (1, 5, 9, 5, "overlap of 1 to 4 frames, got 5"),
        (1, 5, 9, 0, "overlap of 1 to 4 frames, got 0"),
        (2, 5, 9, 2, "1 more than a multiple of 2, got 2"),
        (1, 5, 4, 2, "num_frames 4"),
        (1, 1, 9, 2, "overlap 2 <= t"),
    ],
)
def test_what_is_no_window(ratio, given, num_frames, overlap, message):
    with pytest.raises(UserError, match=message) as raised:
        window_of(5, ratio).checked(video_of(range(given)), num_frames, overlap)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("overlap", [1, 2, 3])
@pytest.mark.parametrize("total", [4, 5, 9, 12])
def test_each_frame_follows_the_one_before(overlap, total):
    window, parts = window_of(4), []

    def draw(known, part):
        parts.append(part)
        tokens, is_known = known
        count = int(is_known[0].sum())
        assert count == overlap * FRAME
        counted = tokens[:, :1] + np.arange(4).repeat(FRAME)
        np.testing.assert_array_equal(tokens[is_known], counted[is_known])
        return counted

    def encode(frames):
        return frames[:, :, 0, 0, 0].astype(np.int32).repeat(FRAME, axis=1)

    def decode(tokens):
        values = tokens[:, ::FRAME].astype(np.uint8)
        return np.broadcast_to(values[:, :, None, None, None], (*values.shape, 2, 2, 3))

    longer = window.slide(video_of([5, 6, 7, 8]), total, overlap, draw, encode, decode)
    np.testing.assert_array_equal(longer, video_of(range(5, 5 + total)))
    assert parts == list(range(len(parts)))

"""Whether the cards in videos count up, read off their frames."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import read_number


def counting_report(
    videos: UInt8[np.ndarray, "b t h w 3"],
    first_numbers: Sequence[int] | Int[np.ndarray, " b"] | None = None,
) -> dict[str, float]:
    """Measures whether the number on a card rises by one from frame to frame.

    Args:
        videos: Frames with one card each, at least two a video.
        first_numbers: The number that the first frame of each video was to show.

    Returns:
        Shares in [0, 1]:
            `frames_readable`: of frames with a whole card on which one number is read.
            `steps_right`: of steps from a frame to the next whose two numbers are read and differ
                by exactly one, upwards; an unreadable frame makes both of its steps wrong.
            `videos_right`: of videos all of whose steps are right.
            `first_right`: of first frames that show the number asked for; only with
                `first_numbers`.

    Raises:
        UserError: There are no videos, no steps, or not as many first numbers as videos.
    """
    count, length = videos.shape[:2]
    if count < 1 or length < 2:
        raise UserError(
            f"videos: expected at least one of at least two frames, got {count} of {length}; pass "
            "longer ones"
        )
    if first_numbers is not None and len(first_numbers) != count:
        raise UserError(
            f"first_numbers: expected one for each of {count} videos, got {len(first_numbers)}; "
            "pass as many"
        )
    read = [[read_number(frame) for frame in video] for video in videos]
    numbers = np.array([[np.nan if n is None else n for n in row] for row in read], np.float64)
    steps = np.diff(numbers, axis=1) == 1
    report = {
        "frames_readable": float(np.isfinite(numbers).mean()),
        "steps_right": float(steps.mean()),
        "videos_right": float(steps.all(axis=1).mean()),
    }
    if first_numbers is not None:
        report["first_right"] = float((numbers[:, 0] == np.asarray(first_numbers)).mean())
    return report

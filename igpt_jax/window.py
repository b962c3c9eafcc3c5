"""The window of frames that slides over a video while it is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from igpt_jax.drawer import Known
from igpt_jax.errors import UserError
from igpt_jax.model_config import Tokenizer
from igpt_jax.models.gpt_config import GPTConfig
from igpt_jax.sampling.known import first_tokens
from igpt_jax.tokenizers.base import sees_time
from igpt_jax.typing import Int, UInt8


@dataclass(frozen=True)
class Window:
    """As many frames as a model draws at once.

    Attributes:
        num_frames: frames of pixels.
        seq_len: tokens of all of them.
        ratio: frames of pixels in one of tokens, but for the first.
        is_whole: whether the tokenizer sees the frames together, so that they have no tokens of
            their own.
    """

    num_frames: int
    seq_len: int
    ratio: int = 1
    is_whole: bool = False

    def checked(
        self, frames: UInt8[np.ndarray, "..."], num_frames: int, overlap: int | None
    ) -> int:
        """The overlap of two windows: as given, or about half of one.

        Raises:
            UserError: a number is out of range, or the overlap has no whole number of tokens.
        """
        ratio, window = self.ratio, self.num_frames
        if overlap is None:
            overlap = 1 + (max(window // 2, 1) - 1) // ratio * ratio
        if frames.ndim != 5 or not overlap <= frames.shape[1] <= num_frames:
            raise UserError(
                f"extend: expected videos (b, t, h, w, 3) with overlap {overlap} <= t <= num_frames"
                f" {num_frames}, got {frames.shape}"
            )
        if not 1 <= overlap < window or (overlap - 1) % ratio:
            steps = f", 1 more than a multiple of {ratio}" if ratio > 1 else ""
            raise UserError(
                f"overlap: expected an overlap of 1 to {window - 1} frames{steps}, got {overlap}"
            )
        return overlap

    def slide(
        self,
        frames: UInt8[np.ndarray, "b t h w 3"],
        num_frames: int,
        overlap: int,
        draw: Callable[[Known, int], Int[np.ndarray, "b l"]],
        encode: Callable[[Any], Int[np.ndarray, "b l"]],
        decode: Callable[[Any], UInt8[np.ndarray, "b t h w 3"]],
    ) -> UInt8[np.ndarray, "b num_frames h w 3"]:
        """Frames, and behind them those of window after window.

        Args:
            frames: what is given.
            num_frames: of the result.
            overlap: frames that a window starts with.
            draw: (known first tokens, number of the window) -> tokens of a window.
            encode: pixels to tokens.
            decode: tokens to pixels.
        """
        tokens, part = encode(frames[:, -overlap:]), 0
        while frames.shape[1] < num_frames:
            drawn = draw(first_tokens(tokens, self.seq_len), part)
            frames = np.concatenate([frames, decode(drawn)[:, overlap:]], axis=1)
            if self.is_whole:  # the first frame of a video has other tokens than later ones
                tokens = encode(frames[:, -overlap:])
            else:
                tokens = drawn[:, -overlap * self.seq_len // self.num_frames :]
            part += 1
        return frames[:, :num_frames]


def window_of(tokenizer: Tokenizer, gpt: GPTConfig) -> Window:
    """The window of a model of videos."""
    if not sees_time(tokenizer):
        return Window(gpt.num_frames, gpt.seq_len)
    config: Any = tokenizer.config
    return Window(config.num_frames, gpt.seq_len, config.temporal_downsample, is_whole=True)

"""The window of frames that slides over a video while it is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from igpt_jax.drawer import Known
from igpt_jax.errors import UserError
from igpt_jax.sampling.known import first_tokens
from igpt_jax.tokenizers.base import sees_time
from igpt_jax.typing import Int, UInt8


@dataclass(frozen=True)
class Window:
    """As many frames as a model draws at once.

    Attributes:
        tokenizer: of pictures, or of videos.
        config: of the GPT.
    """

    tokenizer: Any
    config: Any

    @property
    def num_frames(self) -> int:
        """Frames of pixels."""
        whole = sees_time(self.tokenizer)
        return self.tokenizer.config.num_frames if whole else self.config.num_frames

    @property
    def ratio(self) -> int:
        """Frames of pixels in one of tokens, but for the first."""
        return self.tokenizer.config.temporal_downsample if sees_time(self.tokenizer) else 1

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

    def last(
        self,
        encode: Callable[..., Int[np.ndarray, "b l"]],
        frames: UInt8[np.ndarray, "b t h w 3"],
        drawn: Int[np.ndarray, "b l"] | None,
        overlap: int,
    ) -> Int[np.ndarray, "b known"]:
        """Tokens of the last frames: those that were drawn where frames are apart.

        A tokenizer of videos makes them anew, for the first frame of a video has tokens of its own.
        """
        if drawn is None or sees_time(self.tokenizer):
            return encode(frames[:, -overlap:])
        frame_len = drawn.shape[1] // self.config.num_frames
        return drawn[:, -overlap * frame_len :]

    def known(self, tokens: Int[np.ndarray, "b known"]) -> Known:
        """The same as the first tokens of the next window."""
        return first_tokens(tokens, self.config.seq_len)

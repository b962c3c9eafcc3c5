"""Watches the loss: stops at the first step that is not a number, warns of spikes."""

import logging
import math
from collections import deque

import numpy as np

from igpt_jax.errors import UserError

logger = logging.getLogger("igpt_jax.training")


class LossGuard:
    """Judges the loss of each step against those before it.

    Attributes:
        window: losses that a new one is compared with.
        num_sigmas: standard deviations above their mean that count as a spike.
    """

    def __init__(self, window: int = 128, num_sigmas: float = 6.0) -> None:
        """Starts with no history."""
        self.window, self.num_sigmas = window, num_sigmas
        self._losses: deque[float] = deque(maxlen=window)

    def check(self, step: int, loss: float, grad_norm: float) -> bool:
        """Takes the loss of one step; returns whether it is a spike.

        Raises:
            UserError: loss or gradient norm is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise UserError(
                f"training stopped at step {step}: loss {loss}, gradient norm {grad_norm}; start "
                "again in another --workdir with a lower optimizer.peak_lr or optimizer.clip_norm, "
                "more warmup_steps, gpt.qk_norm, or dtype float32"
            )
        spike = self._is_spike(loss)
        if spike:
            logger.warning(
                "step %d: the loss jumped to %.4f (mean of the last %d: %.4f); if it does not come "
                "back, lower optimizer.peak_lr or optimizer.clip_norm, or set gpt.qk_norm",
                step,
                loss,
                len(self._losses),
                np.mean(self._losses),
            )
        self._losses.append(loss)
        return spike

    def _is_spike(self, loss: float) -> bool:
        if len(self._losses) < self.window // 4:
            return False
        mean, deviation = np.mean(self._losses), np.std(self._losses)
        return bool(loss > mean + self.num_sigmas * max(deviation, 1e-3 * abs(mean)))

"""The account of pictures that could not be read."""

import logging
import math
import threading
from dataclasses import dataclass
from typing import Any, Final

from igpt_jax.errors import UserError

_logger: Final = logging.getLogger("igpt_jax.data")

_MIN_SEEN: Final = 20
_LISTED: Final = 10
_DEVIATIONS: Final = 3.0


@dataclass(frozen=True)
class Broken:
    """Stands in the stream for an item that could not be read.

    Attributes:
        index: Position in the source.
        reason: The file and what is wrong with it, in one line.
        replacement: A whole item to take instead; None where it is left out.
    """

    index: int
    reason: str
    replacement: Any = None


class SkippedImages:
    """Counts what a pipeline met, names each broken file once, and stops when it is too much.

    Safe to share by threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = 0
        self._broken = 0
        self._reasons: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"SkippedImages({self.broken} of {self.seen}, {len(self.reasons)} files)"

    @property
    def seen(self) -> int:
        """Number of items met, broken or not, repeats included."""
        return self._seen

    @property
    def broken(self) -> int:
        """Number of broken items met, repeats included."""
        return self._broken

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each broken file with its fault, in the order in which they were met."""
        with self._lock:
            return tuple(self._reasons.values())

    def accept(self, item: object, *, epoch_length: int, max_share: float) -> bool:
        """Count an item and tell whether it is whole.

        The share of broken pictures is compared with its limit at the end of each epoch.
        Before that, after at least 20 pictures, it must exceed the limit by three standard
        deviations of a binomial count, so that an unlucky beginning does not stop a sound data
        set.

        Args:
            item: What was read, or `Broken`.
            epoch_length: Number of items after which the exact share counts.
            max_share: Largest accepted share of broken items.

        Raises:
            UserError: Too many pictures are broken.
        """
        whole = not isinstance(item, Broken)
        with self._lock:
            self._seen += 1
            if isinstance(item, Broken):
                self._broken += 1
                if item.index not in self._reasons:
                    self._reasons[item.index] = item.reason
                    _logger.warning("skipped a broken picture: %s", item.reason)
            limit = max_share * self._seen
            epoch_ends = self._seen % epoch_length == 0
            if not epoch_ends:
                limit += _DEVIATIONS * math.sqrt(limit * (1 - max_share))
            if (epoch_ends or self._seen >= _MIN_SEEN) and self._broken > limit:
                raise UserError(self._complaint(max_share))
        return whole

    def _complaint(self, max_share: float) -> str:
        listed = list(self._reasons.values())[:_LISTED]
        more = len(self._reasons) - len(listed)
        tail = f"; and {more} more" if more else ""
        return (
            f"data: expected at most {max_share:.2%} broken pictures, got {self._broken} of "
            f"{self._seen}: {'; '.join(listed)}{tail}; repair or remove them, or raise "
            "max_broken_share"
        )

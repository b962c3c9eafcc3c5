"""The account of pictures that could not be read."""

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from igpt_jax.errors import UserError

_logger: Final = logging.getLogger("igpt_jax.data")

LISTED: Final = 10  # broken files that a refusal names

_MIN_SEEN: Final = 20
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

    def __init__(self, share: float = 1.0) -> None:
        """Begins to count.

        Args:
            share: of a data set, what this account meets of it; it may have as many broken items
                as all of the data set.
        """
        self._share = share
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
            max_share: Largest accepted share of broken items, of the whole data set.

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
            here = min(max_share / self._share, 1.0)
            limit = here * self._seen
            epoch_ends = self._seen % epoch_length == 0
            if not epoch_ends:
                limit += _DEVIATIONS * math.sqrt(limit * (1 - here))
            if (epoch_ends or self._seen >= _MIN_SEEN) and self._broken > limit:
                reasons = list(self._reasons.values())
                raise _refusal(self._broken, self._seen, reasons, len(reasons), max_share)
        return whole


def check_broken(broken: int, seen: int, reasons: Sequence[str], max_share: float) -> None:
    """Refuses a data set that was read once by several accounts.

    Args:
        broken: items of all accounts.
        seen: items of all accounts, broken or not.
        reasons: some of the faults.
        max_share: largest accepted share of broken items.

    Raises:
        UserError: too many are broken.
    """
    if broken > max_share * seen:
        raise _refusal(broken, seen, reasons, broken, max_share)


def _refusal(
    broken: int, seen: int, reasons: Sequence[str], num_reasons: int, max_share: float
) -> UserError:
    listed = reasons[:LISTED]
    more = num_reasons - len(listed)
    tail = f"; and {more} more" if more else ""
    return UserError(
        f"data: expected at most {max_share:.2%} broken pictures, got {broken} of {seen}: "
        f"{'; '.join(listed)}{tail}; repair or remove them, or raise max_broken_share"
    )

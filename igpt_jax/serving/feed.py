"""News of jobs, from the threads that draw to the connections that wait for them."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass
class News:
    """What became of a job since somebody last looked.

    Attributes:
        tokens: drawn, of `total`; None where it is not known.
        total: tokens of all its pictures.
        previews: the newest of each picture, uint8 [h w 3], by its index.
        has_ended: whether nothing more comes.
    """

    tokens: int | None = None
    total: int = 0
    previews: dict[int, Any] = field(default_factory=dict)
    has_ended: bool = False


# Seconds between two news: nobody sees more, and each costs the server time.
PAUSE: Final = 0.2
PAUSE_WITHOUT_PREVIEWS: Final = 1.0  # who only waits looks at numbers


class Watcher:
    """One connection that waits for news of a job; what it misses is merged into the newest.

    Attributes:
        wants_previews: whether it looks at pictures that grow.
    """

    def __init__(self, feed: "Feed", job: str, wants_previews: bool) -> None:
        self._feed, self._job, self.wants_previews = feed, job, wants_previews
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._ended, self._rests_until = asyncio.Event(), 0.0
        self._news, self._lock, self._is_told = News(), threading.Lock(), False

    async def next(self, seconds: float) -> News:
        """News, or empty ones after some time; the end at once, others after a pause."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._rests_until):
                await self._ended.wait()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return News()
        pause = PAUSE if self.wants_previews else PAUSE_WITHOUT_PREVIEWS
        self._rests_until = self._loop.time() + pause
        with self._lock:
            self._changed.clear()
            self._is_told = False
            news, self._news = self._news, News(has_ended=self._news.has_ended)
        return news

    async def end(self, seconds: float) -> bool:
        """Waits for nothing but the end; whether it came in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._ended.wait()
        except TimeoutError:
            return False

    def close(self) -> None:
        """Wants no more."""
        self._feed.forget(self._job, self)

    def tell(
        self, tokens: int | None, total: int, previews: Mapping[int, Any], has_ended: bool
    ) -> None:
        """Adds news, from any thread."""
        with self._lock:
            if tokens is not None:
                self._news.tokens, self._news.total = tokens, total
            if self.wants_previews:
                self._news.previews.update(previews)
            self._news.has_ended |= has_ended
            was_told, self._is_told = self._is_told, True
        try:
            if not was_told:  # waking the loop costs more than all else here
                self._loop.call_soon_threadsafe(self._changed.set)
            if has_ended:
                self._loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:  # the server's loop is closed already
            return


class Feed:
    """Who watches which job."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}
        self._lock, self._is_closed = threading.Lock(), False

    def watch(self, job: str, *, wants_previews: bool = True) -> Watcher:
        """A new watcher; to be called where its event loop runs."""
        watcher = Watcher(self, job, wants_previews)
        with self._lock:
            self._watchers.setdefault(job, set()).add(watcher)
            is_closed = self._is_closed
        if is_closed:
            watcher.tell(None, 0, {}, True)
        return watcher

    def forget(self, job: str, watcher: Watcher) -> None:
        """Drops a watcher."""
        with self._lock:
            left = self._watchers.get(job, set())
            left.discard(watcher)
            if not left:
                self._watchers.pop(job, None)

    def wants_previews(self, job: str) -> bool:
        """Whether somebody looks at a job's pictures while they grow: they cost time to make."""
        with self._lock:
            return any(one.wants_previews for one in self._watchers.get(job, ()))

    @property
    def num_watchers(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(map(len, self._watchers.values()))

    def tell(
        self,
        job: str,
        *,
        tokens: int | None = None,
        total: int = 0,
        previews: Mapping[int, Any] | None = None,
        has_ended: bool = False,
    ) -> None:
        """Tells all who watch a job; from any thread."""
        with self._lock:
            watchers = list(self._watchers.get(job, ()))
        for watcher in watchers:
            watcher.tell(tokens, total, previews or {}, has_ended)

    def close(self) -> None:
        """Ends all watching: the server stops."""
        with self._lock:
            self._is_closed = True
            watchers = [one for some in self._watchers.values() for one in some]
        for watcher in watchers:
            watcher.tell(None, 0, {}, True)

"""The engine: one thread that owns the device and draws for many at once.

Pictures of different jobs and settings are drawn side by side in a table of a fixed shape, for
every setting is an array with one value a row. Rows are drawn in segments of tokens; between two of
them those that are done leave and others enter, each at a token of its own: a newcomer waits for a
segment, not for the pictures of others. (`benchmarks/serving_admission.py` measures both ways: rows
with lengths of their own cost no more than those of a batch that begins and ends together.) A
segment also gives progress, pictures that grow, an end to what nobody waits for, and questions of
others answered in between.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8

logger = logging.getLogger(__name__)

DEADLINE = "expected to be done before its deadline; ask for less, or with a later one"


class Overloaded(Exception):
    """There is no room for more; try again later."""


@runtime_checkable
class Painter(Protocol):
    """What draws pictures of one model; called by the engine's thread alone.

    What it has in hand is its own: rows at places 0 to size - 1, some of them free. What a method
    is given is used up.
    """

    sizes: tuple[int, ...]
    """Rows of what it may have in hand, ascending."""
    num_tokens: int
    """Of a picture."""

    def read(self, ask: Any) -> Any:
        """What `enter` takes of a job; raises `UserError`."""
        ...

    def fits(self, hand: Any, ask: Any) -> bool:
        """Whether a picture can be drawn beside those in hand; None is nothing in hand."""
        ...

    def enter(
        self, hand: Any, size: int, rows: Sequence[tuple[Any, int]], places: Sequence[int]
    ) -> Any:
        """Takes what was read and the index of the picture in its job, to places that are free."""
        ...

    def resize(self, hand: Any, kept: Sequence[int], size: int) -> Any:
        """Rows at some places, in this order, and free ones up to another size."""
        ...

    def leave(self, hand: Any, places: Sequence[int]) -> Any:
        """What is in hand with some places free."""
        ...

    def advance(self, hand: Any) -> Any:
        """Draws a segment of all rows; when it returns, its tokens are there."""
        ...

    def preview(self, hand: Any, places: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
        """What is there of the pictures at some places."""
        ...

    def finish(self, hand: Any, places: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
        """The pictures at some places, which are done."""
        ...


@runtime_checkable
class Listener(Protocol):
    """Who hears what becomes of jobs, in the engine's thread: it must not take long."""

    def wants_previews(self, job: str) -> bool:
        """Whether somebody watches it."""
        ...

    def took(self) -> None:
        """Pictures that waited are drawn now: there is room for others."""
        ...

    def drew(self, job: str, tokens: int, total: int, previews: Mapping[int, Any]) -> None:
        """Tokens of all its pictures that are there, and pictures that grow, by index."""
        ...

    def done(self, job: str, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """All of its pictures are drawn."""
        ...

    def failed(self, job: str, reason: str, *, is_late: bool) -> None:
        """It cannot be drawn, or is too late."""
        ...


@dataclass
class Order:
    """A job in the engine.

    Attributes:
        job: its name.
        client: who asked; clients take turns, picture by picture.
        painter: name of what draws it.
        ask: what is asked, for the painter.
        count: pictures.
        deadline: when it is too late, in seconds of `time.monotonic`.
    """

    job: str
    client: str
    painter: str
    ask: Any
    count: int = 1
    deadline: float = float("inf")
    images: dict[int, Any] = field(default_factory=dict, repr=False)
    waiting: deque[int] = field(default_factory=deque, repr=False)
    tokens: dict[int, int] = field(default_factory=dict, repr=False)
    what: Any = field(default=None, repr=False)
    is_dead: bool = False


Row = tuple[Order, int]


@dataclass
class _Hand:
    """What one painter has in hand.

    Attributes:
        painter: whose it is.
        held: the painter's own; None before anything entered.
        rows: by place; None where it is free.
        takes_more: whether others may enter; not once somebody waits whose pictures do not fit.
    """

    painter: Painter
    held: Any = None
    rows: list[Row | None] = field(default_factory=list)
    takes_more: bool = True

    @property
    def places(self) -> list[int]:
        """Those that are taken."""
        return [place for place, row in enumerate(self.rows) if row is not None]

    @property
    def room(self) -> int:
        """How many may enter."""
        return self.painter.sizes[-1] - len(self.places) if self.takes_more else 0


class Engine:
    """Draws orders, first the oldest of each client in turn.

    Attributes:
        painters: what draws, by name.
        listener: who hears of it.
        max_rows: pictures that may wait; more is refused.
        rows_drawn: pictures that were begun.
        rows_advanced: rows of all segments.
        places_advanced: the same with those that were free.
    """

    def __init__(
        self, painters: Mapping[str, Painter], listener: Listener, max_rows: int = 256
    ) -> None:
        self.painters, self.listener, self.max_rows = dict(painters), listener, max_rows
        self.rows_drawn = self.rows_advanced = self.places_advanced = 0
        self._orders: dict[str, Order] = {}
        self._clients: OrderedDict[str, deque[Order]] = OrderedDict()
        self._steps: deque[tuple[Generator[None, None, Any], Future]] = deque()
        self._changed = threading.Condition()
        self._stops = self._abandons = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it draws."""
        return self._thread.is_alive() and not self._stops

    @property
    def waiting_rows(self) -> int:
        """Pictures that no batch has taken yet."""
        with self._changed:
            return self._count_waiting()

    @property
    def jobs(self) -> list[str]:
        """The jobs that it has."""
        with self._changed:
            return list(self._orders)

    def submit(self, order: Order) -> None:
        """Takes an order.

        Raises:
            Overloaded: too many pictures wait, or it stops.
            UserError: no such painter, or the same job twice.
        """
        if order.painter not in self.painters:
            raise UserError(
                f"model: expected one of {', '.join(self.painters)}, got {order.painter!r}"
            )
        with self._changed:
            if self._stops or self._count_waiting() + order.count > self.max_rows:
                raise Overloaded
            if order.job in self._orders:
                raise UserError(f"job: expected a new one, got {order.job} again")
            order.waiting.extend(range(order.count))
            self._orders[order.job] = order
            self._clients.setdefault(order.client, deque()).append(order)
            self._changed.notify()

    def cancel(self, job: str) -> bool:
        """Leaves a job off; whether it was there. Nobody hears of it again."""
        with self._changed:
            order = self._orders.pop(job, None)
            if order is not None:
                order.is_dead = True
            return order is not None

    def call(self, steps: Generator[None, None, Any], max_waiting: int = 16) -> Future:
        """Runs a generator in the engine's thread, one step between two segments.

        Raises:
            Overloaded: too many wait, or the engine stops.
        """
        future: Future = Future()
        with self._changed:
            if self._stops or len(self._steps) >= max_waiting:
                raise Overloaded
            self._steps.append((steps, future))
            self._changed.notify()
        return future

    def stop(self, grace: float = 0.0) -> list[str]:
        """Finishes the batch in hand, if it takes no longer than `grace` seconds.

        Returns:
            The jobs that are not done.
        """
        with self._changed:
            self._stops = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(grace)
            self._abandons = True
            self._thread.join()
        with self._changed:
            for _, future in self._steps:
                if not future.cancel():
                    future.set_exception(Overloaded())
            self._steps.clear()
            return list(self._orders)

    def _count_waiting(self) -> int:
        return sum(len(order.waiting) for order in self._orders.values())

    def _run(self) -> None:
        hand: _Hand | None = None
        while True:
            with self._changed:
                while not (hand or self._steps or self._stops or self._clients):
                    self._changed.wait()
                self._drop_late()
                if self._stops and (hand is None or self._abandons):
                    return
                hand, rows = (hand, []) if self._stops else self._take(hand)
            self._step_others()
            if rows:
                self.listener.took()
            if hand is not None:
                hand = self._draw(hand, rows)

    def _drop_late(self) -> None:
        now = time.monotonic()
        with self._changed:
            late = [order for order in self._orders.values() if order.deadline <= now]
        for order in late:
            self._drop(order, DEADLINE, is_late=True)

    def _take(self, hand: _Hand | None) -> tuple[_Hand | None, list[Row]]:
        """Rows that enter: one of each client in turn, as long as they fit."""
        rows: list[Row] = []
        passed, is_left_out = 0, False
        if hand is not None and not self._is_time(hand):
            return hand, rows
        while self._clients and passed < len(self._clients):
            if hand is not None and len(rows) >= hand.room:
                break
            client, orders = next(iter(self._clients.items()))
            while orders and (orders[0].is_dead or not orders[0].waiting):
                orders.popleft()
            if not orders:
                del self._clients[client]
                continue
            order = self._first_that_fits(orders, hand)
            if order is None:
                is_left_out = True
                if hand is not None and hand.held is not None:
                    break  # it is this client's turn, as soon as all is done that is in hand
                passed += 1
            self._clients.move_to_end(client)
            if order is None:
                continue
            passed = 0
            hand = hand or _Hand(self.painters[order.painter])
            rows.append((order, order.waiting.popleft()))
        if hand is not None and is_left_out:
            hand.takes_more = False  # or others would keep those waiting who do not fit
        return hand, rows

    def _is_time(self, hand: _Hand) -> bool:
        """Whether to let others in: all who wait, or as many as make up for what that costs.

        Under load, rows so come to begin and end together, which takes one program for all.
        """
        return self._count_waiting() <= hand.room or 2 * hand.room >= hand.painter.sizes[-1]

    def _first_that_fits(self, orders: deque[Order], hand: _Hand | None) -> Order | None:
        for order in orders:
            if order.is_dead or not order.waiting:
                continue
            if hand is None:
                return order
            is_same = self.painters[order.painter] is hand.painter
            # A newcomer need not fit beside others that enter with it into an empty hand.
            if is_same and (hand.held is None or hand.painter.fits(hand.held, order.ask)):
                return order
        return None

    def _draw(self, hand: _Hand, rows: list[Row]) -> _Hand | None:
        """One segment; what is in hand after it."""
        painter = hand.painter
        rows = [row for row in rows if self._is_read(painter, row[0])]
        try:
            self._enter(hand, rows)
            if not hand.places:
                return None
            hand.held = painter.advance(hand.held)
            self.rows_advanced += len(hand.places)
            self.places_advanced += len(hand.rows)
            self._let_go(hand)
            return None if self._abandons else self._report(hand)
        except Exception as error:  # whatever a model raises must not end the thread
            logger.exception("drawing failed")
            for order, _ in [*rows, *(row for row in hand.rows if row is not None)]:
                self._drop(order, f"drawing failed ({type(error).__name__})")
            return None

    def _enter(self, hand: _Hand, rows: list[Row]) -> None:
        """Puts rows into free places, of which there may be more or fewer than before."""
        taken, painter = hand.places, hand.painter
        size = next((size for size in painter.sizes if size >= len(taken) + len(rows)), 0)
        if size and size != len(hand.rows):
            if hand.held is not None and taken:
                hand.held = painter.resize(hand.held, taken, size)
            kept = [hand.rows[place] for place in taken]
            hand.rows = [*kept, *[None] * (size - len(kept))]
        if not rows:
            return
        free = [place for place, row in enumerate(hand.rows) if row is None][: len(rows)]
        for place, row in zip(free, rows, strict=True):
            hand.rows[place] = row
        reads = [(order.what, index) for order, index in rows]
        hand.held = painter.enter(hand.held, len(hand.rows), reads, free)
        self.rows_drawn += len(rows)

    def _let_go(self, hand: _Hand) -> None:
        """Frees the places of what nobody waits for any more."""
        self._drop_late()
        gone = [place for place in hand.places if _row(hand, place)[0].is_dead]
        if gone:
            self._free(hand, gone)

    def _free(self, hand: _Hand, places: list[int]) -> None:
        hand.held = hand.painter.leave(hand.held, places)
        for place in places:
            hand.rows[place] = None

    def _is_read(self, painter: Painter, order: Order) -> bool:
        if order.what is None and not order.is_dead:
            try:
                order.what = painter.read(order.ask)
            except UserError as error:
                self._drop(order, str(error))
            except Exception as error:
                logger.exception("a request could not be read")
                self._drop(order, f"reading failed ({type(error).__name__})")
        return not order.is_dead

    def _drop(self, order: Order, reason: str, *, is_late: bool = False) -> None:
        if self.cancel(order.job):
            self.listener.failed(order.job, reason, is_late=is_late)

    def _report(self, hand: _Hand) -> _Hand | None:
        """Hands out what is done and tells of the rest; what is in hand then."""
        positions, total = hand.held.positions, hand.painter.num_tokens
        done = [place for place in hand.places if positions[place] >= total]
        images = hand.painter.finish(hand.held, done) if done else []
        seen: dict[str, dict[int, Any]] = {}  # what is new of each job that goes on, by index
        for place, image in zip(done, images, strict=True):
            order, index = _row(hand, place)
            order.images[index] = image
            seen.setdefault(order.job, {})[index] = image
        growing = [place for place in hand.places if place not in done]
        watched = [p for p in growing if self.listener.wants_previews(_row(hand, p)[0].job)]
        previews = hand.painter.preview(hand.held, watched) if watched else []
        for place, image in zip(watched, previews, strict=True):
            order, index = _row(hand, place)
            seen.setdefault(order.job, {})[index] = image
        for place in hand.places:
            order, index = _row(hand, place)
            order.tokens[index] = min(positions[place], total)
        orders = {order.job: order for order, _ in (_row(hand, place) for place in hand.places)}
        for job, order in orders.items():
            if len(order.images) < order.count:
                count = sum(order.tokens.values())
                self.listener.drew(job, count, order.count * total, seen.get(job, {}))
            elif self.cancel(job):
                pictures = [order.images[index] for index in range(order.count)]
                self.listener.done(job, np.stack(pictures))
        if done:
            self._free(hand, done)
        return hand if hand.places else None

    def _step_others(self) -> None:
        """One step of what others asked."""
        with self._changed:
            if not self._steps:
                return
            steps, future = self._steps.popleft()
        if not future.running() and not future.set_running_or_notify_cancel():
            return
        try:
            next(steps)
        except StopIteration as stop:
            future.set_result(stop.value)
        except Exception as error:
            future.set_exception(error)
        else:
            with self._changed:
                self._steps.append((steps, future))


def _row(hand: _Hand, place: int) -> Row:
    row = hand.rows[place]
    assert row is not None
    return row

"""The engine: one thread that owns the device and draws for many at once.

Pictures of different jobs and settings share a batch of a fixed shape, for every setting is an
array with one value a row. A batch is drawn in segments of tokens; new pictures come in when it is
done, not between two tokens: all rows of a key-value cache share one length, from which positions,
masks and rotary angles follow, and a length of its own for each row would turn the one contiguous
write of a step into a scatter, for every user of the model and not only for a server. What a
segment gives instead: progress, pictures that grow, an end to what nobody waits for, and questions
of others answered in between.
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
    """What draws batches of one model; called by the engine's thread alone."""

    sizes: tuple[int, ...]
    """Rows of the batches that it has programs for, ascending."""
    ends: tuple[int, ...]
    """Tokens that are there after each segment; the last is all."""

    def read(self, ask: Any) -> Any:
        """What `begin` takes of a job; raises `UserError`."""
        ...

    def begin(self, rows: Sequence[tuple[Any, int]]) -> Any:
        """Starts a batch of what was read and the index of the picture in its job."""
        ...

    def advance(self, batch: Any, end: int) -> Any:
        """Draws to `end` tokens; when it returns, they are there."""
        ...

    def preview(self, batch: Any) -> UInt8[np.ndarray, "b h w 3"]:
        """What is there of the pictures."""
        ...

    def finish(self, batch: Any) -> UInt8[np.ndarray, "b h w 3"]:
        """The pictures."""
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


class Engine:
    """Draws orders, first the oldest of each client in turn.

    Attributes:
        painters: what draws, by name.
        listener: who hears of it.
        max_rows: pictures that may wait; more is refused.
    """

    def __init__(
        self, painters: Mapping[str, Painter], listener: Listener, max_rows: int = 256
    ) -> None:
        self.painters, self.listener, self.max_rows = dict(painters), listener, max_rows
        self.rows_drawn = self.slots_drawn = 0
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
        while True:
            with self._changed:
                rows = [] if self._stops else self._take()
                while not (rows or self._steps or self._stops):
                    self._changed.wait(self._until_deadline())
                    rows = self._take()
                if self._stops:
                    return
            self._step_others()
            if rows:
                self._draw(rows)

    def _take(self) -> list[Row]:
        """Rows of the next batch: one of each client in turn, all of one painter."""
        late = [order for order in self._orders.values() if order.deadline <= time.monotonic()]
        for order in late:
            self._drop(order, DEADLINE, is_late=True)
        rows: list[Row] = []
        painter, passed = None, 0
        while self._clients and passed < len(self._clients):
            client, orders = next(iter(self._clients.items()))
            while orders and (orders[0].is_dead or not orders[0].waiting):
                orders.popleft()
            if not orders:
                del self._clients[client]
                continue
            order = next(
                (o for o in orders if painter in (None, o.painter) and o.waiting and not o.is_dead),
                None,
            )
            self._clients.move_to_end(client)
            if order is None:
                passed += 1
                continue
            painter, passed = order.painter, 0
            rows.append((order, order.waiting.popleft()))
            if len(rows) == self.painters[painter].sizes[-1]:
                break
        return rows

    def _until_deadline(self) -> float | None:
        ends = [order.deadline for order in self._orders.values()]
        return max(0.0, min(ends) - time.monotonic()) if ends and min(ends) < np.inf else None

    def _draw(self, rows: list[Row]) -> None:
        """One batch, from the first token to pictures."""
        self.listener.took()
        painter = self.painters[rows[0][0].painter]
        rows = [row for row in rows if self._is_read(painter, row[0])]
        if not rows:
            return
        try:
            batch = painter.begin([(order.what, index) for order, index in rows])
            self.rows_drawn += len(rows)
            self.slots_drawn += next(size for size in painter.sizes if size >= len(rows))
            for end in painter.ends:
                batch = painter.advance(batch, end)
                self._step_others()
                if not self._goes_on(rows):
                    return
                if end < painter.ends[-1]:
                    self._report(rows, end, painter, batch)
            images = painter.finish(batch)
        except Exception as error:  # whatever a model raises must not end the thread
            logger.exception("a batch failed")
            for order, _ in rows:
                self._drop(order, f"drawing failed ({type(error).__name__})")
            return
        self._hand_out(rows, painter.ends[-1], images)

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

    def _goes_on(self, rows: list[Row]) -> bool:
        """Whether anybody waits for a batch; what is late is dropped."""
        now = time.monotonic()
        for order, _ in rows:
            if order.deadline <= now:
                self._drop(order, DEADLINE, is_late=True)
        return not self._abandons and any(not order.is_dead for order, _ in rows)

    def _drop(self, order: Order, reason: str, *, is_late: bool = False) -> None:
        if self.cancel(order.job):
            self.listener.failed(order.job, reason, is_late=is_late)

    def _report(self, rows: list[Row], end: int, painter: Painter, batch: Any) -> None:
        orders = {order.job: order for order, _ in rows if not order.is_dead}
        watched = {job for job in orders if self.listener.wants_previews(job)}
        images = painter.preview(batch) if watched else None
        for order, index in rows:
            order.tokens[index] = end
        for job, order in orders.items():
            grown = {}
            if images is not None and job in watched:
                grown = {index: images[i] for i, (o, index) in enumerate(rows) if o is order}
            total = order.count * painter.ends[-1]
            self.listener.drew(job, sum(order.tokens.values()), total, grown)

    def _hand_out(self, rows: list[Row], total: int, images: UInt8[np.ndarray, "b h w 3"]) -> None:
        for (order, index), image in zip(rows, images, strict=False):
            order.images[index], order.tokens[index] = image, total
        for order in {order.job: order for order, _ in rows}.values():
            if len(order.images) < order.count:
                drawn = {i: order.images[i] for o, i in rows if o is order}
                if not order.is_dead:
                    now = sum(order.tokens.values())
                    self.listener.drew(order.job, now, order.count * total, drawn)
            elif self.cancel(order.job):
                pictures = [order.images[index] for index in range(order.count)]
                self.listener.done(order.job, np.stack(pictures))

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

"""Jobs: accepted once, drawn by one server at a time, finished once.

A server claims jobs for a while (a lease) and renews that while it draws. The jobs of a server that
dies are claimed again when their leases end, and whoever was slower cannot finish them: a finish
counts only from the owner and attempt that the row names.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from igpt_jax.serving.database import Database
from igpt_jax.serving.schema import jobs, pictures

MAX_ATTEMPTS = 20  # a job that ends its server each time must end, too
ENDED = ("done", "failed", "late", "cancelled")


class Full(Exception):
    """Too many pictures wait.

    Attributes:
        waiting: how many.
    """

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting)
        self.waiting = waiting


@dataclass(frozen=True)
class Job:
    """A job as the database has it.

    Attributes:
        id: its name, 32 hexadecimal digits.
        client: who asked.
        model: name of what draws it.
        settings: what is asked, without pictures.
        count: pictures.
        inputs: names of files, by `image` and `mask`.
        state: queued, running, done, failed, late or cancelled.
        reason: why it failed.
        tokens: drawn, of `total`.
        total: tokens of all its pictures.
        attempt: how often it was claimed.
        created: seconds since 1970, as the next two.
        deadline: when it is too late.
        finished: when it ended.
    """

    id: str
    client: str
    model: str
    settings: Mapping[str, Any]
    count: int
    inputs: Mapping[str, str]
    state: str
    reason: str | None
    tokens: int
    total: int
    attempt: int
    created: float
    deadline: float
    finished: float | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in ENDED


_COLUMNS = [jobs.c[name] for name in Job.__annotations__]

# What every request needs is put together once: that takes longer than to run it.
_BY_ID = select(*_COLUMNS).where(jobs.c.id == bindparam("id"))
_BY_ID_AND_CLIENT = _BY_ID.where(jobs.c.client == bindparam("client"))
_WAITING = select(func.coalesce(func.sum(jobs.c.count), 0)).where(jobs.c.state == "queued")
_ACCEPT = insert(jobs)
_OURS = and_(
    jobs.c.id == bindparam("job"),
    jobs.c.owner == bindparam("by"),
    jobs.c.attempt == bindparam("claim"),
    jobs.c.state == "running",
)
_END = (
    update(jobs)
    .where(_OURS)
    .values(
        state=bindparam("now"),
        reason=bindparam("why"),
        finished=bindparam("at"),
        tokens=case((bindparam("now") == "done", jobs.c.total), else_=jobs.c.tokens),
        owner=None,
        lease_until=None,
    )
)
_ADD_PICTURES = insert(pictures)


def new_id() -> str:
    """A name that nobody can guess."""
    return uuid.uuid4().hex


class Store:
    """The jobs of a database.

    Attributes:
        database: where they are.
        clock: seconds since 1970; servers that share a database must agree on it within a lease.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self.clock = database, clock

    def accept(
        self,
        client: str,
        model: str,
        settings: Mapping[str, Any],
        count: int,
        total: int,
        seconds: float,
        *,
        id: str | None = None,
        inputs: Mapping[str, str] | None = None,
        repeat_key: str | None = None,
        max_waiting: int = 256,
        also: Callable[[Connection], None] | None = None,
    ) -> tuple[Job, bool]:
        """Takes a job: once it returns, the job is not lost.

        Args:
            client: who asks.
            model: what is to draw it.
            settings: what is asked, as JSON.
            count: pictures.
            total: tokens of all of them.
            seconds: until it is too late.
            id: its name; None makes one.
            inputs: names of its files.
            repeat_key: the client's own name for the request; the same once more gets the same job.
            max_waiting: pictures that may wait, with its own.
            also: what else to write in the transaction of a new job.

        Returns:
            The job, and whether it is new.

        Raises:
            Full: too many wait.
        """
        now, id = self.clock(), id or new_id()
        row: dict[str, Any] = {
            "id": id, "client": client, "repeat_key": repeat_key, "model": model,
            "settings": dict(settings), "count": count, "inputs": dict(inputs or {}),
            "state": "queued", "tokens": 0, "total": total, "attempt": 0, "created": now,
            "deadline": now + seconds,
        }  # fmt: skip
        try:
            with self.database.writing() as connection:
                if repeat_key is not None:
                    known = self._repeated(connection, client, repeat_key)
                    if known is not None:
                        return known, False
                waiting = self._waiting(connection)
                if waiting + count > max_waiting:
                    raise Full(waiting)
                connection.execute(_ACCEPT, row)
                if also is not None:
                    also(connection)
        except IntegrityError:  # the same request at the same moment
            with self.database.reading() as connection:
                known = self._repeated(connection, client, repeat_key or "")
            if known is None:
                raise
            return known, False
        row.pop("repeat_key")
        return Job(**row, reason=None, finished=None), True

    def claim(
        self, owner: str, models: Sequence[str], max_pictures: int, lease: float
    ) -> list[Job]:
        """Takes jobs to draw: clients in turn, and the oldest first of each.

        Args:
            owner: the server.
            models: what it can draw.
            max_pictures: at most so many, but a job is never cut.
            lease: seconds until others may take them.
        """
        now = self.clock()
        is_held = and_(jobs.c.state == "running", jobs.c.lease_until >= now)
        is_free = and_(
            or_(
                jobs.c.state == "queued", and_(jobs.c.state == "running", jobs.c.lease_until < now)
            ),
            jobs.c.model.in_(models),
            jobs.c.deadline > now,
            jobs.c.attempt < MAX_ATTEMPTS,
        )
        # What a client has in hand counts as its turns.
        turn = func.row_number().over(
            partition_by=jobs.c.client,
            order_by=(case((is_held, 0), else_=1), jobs.c.number),
        )
        ranked = (
            select(jobs.c.number, turn.label("turn"))
            .where(jobs.c.state.in_(("queued", "running")))
            .subquery()
        )
        wanted = (
            select(*_COLUMNS)
            .join(ranked, ranked.c.number == jobs.c.number)
            .where(is_free)
            .order_by(ranked.c.turn, jobs.c.number)
            .limit(max(1, max_pictures))
            .with_for_update(skip_locked=True, of=jobs)  # SQLite has one writer at a time anyway
        )
        with self.database.writing() as connection:
            found: list[Job] = []
            room = max_pictures
            for row in connection.execute(wanted).all():
                job = Job(**row._asdict())
                if found and job.count > room:
                    break
                found.append(job)
                room -= job.count
            if not found:
                return []
            connection.execute(
                update(jobs)
                .where(jobs.c.id.in_([job.id for job in found]))
                .values(
                    state="running",
                    owner=owner,
                    lease_until=now + lease,
                    attempt=jobs.c.attempt + 1,
                    tokens=0,
                )
            )
        return [
            dataclasses.replace(job, state="running", tokens=0, attempt=job.attempt + 1)
            for job in found
        ]

    def renew(self, owner: str, tokens: Mapping[str, int], lease: float) -> set[str]:
        """Keeps jobs for longer, and says how far they are.

        Returns:
            Those that are no longer the owner's: cancelled, or taken over.
        """
        if not tokens:
            return set()
        ours = and_(jobs.c.owner == owner, jobs.c.state == "running")
        renewal = (
            update(jobs)
            .where(jobs.c.id == bindparam("job"), ours)
            .values(lease_until=self.clock() + lease, tokens=bindparam("now"))
        )
        rows = [{"job": id, "now": count} for id, count in sorted(tokens.items())]
        with self.database.writing() as connection:
            connection.execute(renewal, rows)
            kept = connection.execute(select(jobs.c.id).where(jobs.c.id.in_(tokens), ours))
            return set(tokens) - set(kept.scalars())

    def finish(self, id: str, owner: str, attempt: int, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Ends a job with its pictures, whose files are written.

        Args:
            id: of the job.
            owner: the server that drew it.
            attempt: of its claim.
            rows: of the table `pictures`.

        Returns:
            Whether it was still this owner's; nothing is changed otherwise.
        """
        now = self.clock()
        with self.database.writing() as connection:
            if not self._end(connection, id, owner, attempt, "done", None, now):
                return False
            added = [{"job": id, "created": now, **row} for row in rows]
            connection.execute(_ADD_PICTURES, added)
            return True

    def fail(self, id: str, owner: str, attempt: int, state: str, reason: str) -> bool:
        """Ends a job without pictures, as `failed` or `late`; whether it was still this owner's."""
        with self.database.writing() as connection:
            return self._end(connection, id, owner, attempt, state, reason, self.clock())

    def cancel(self, id: str) -> bool:
        """Ends a job that nobody wants any more; whether it had not ended."""
        cancelled = (
            update(jobs)
            .where(jobs.c.id == id, jobs.c.state.in_(("queued", "running")))
            .values(state="cancelled", finished=self.clock(), owner=None, lease_until=None)
        )
        with self.database.writing() as connection:
            return connection.execute(cancelled).rowcount == 1

    def release(self, owner: str | None = None, id: str | None = None) -> int:
        """Puts running jobs back into the queue; how many.

        Args:
            owner: whose; None for all, where nobody else can have any.
            id: of one of them; None for all.
        """
        held = jobs.c.state == "running"
        if owner is not None:
            held = and_(held, jobs.c.owner == owner)
        if id is not None:
            held = and_(held, jobs.c.id == id)
        freed = update(jobs).where(held).values(state="queued", owner=None, lease_until=None)
        with self.database.writing() as connection:
            return connection.execute(freed).rowcount

    def expire(self) -> int:
        """Ends what is too late, or has ended its server too often; how many."""
        now = self.clock()
        is_free = or_(jobs.c.state == "queued", jobs.c.lease_until < now)
        is_open = and_(jobs.c.state.in_(("queued", "running")), is_free)
        late = (
            update(jobs)
            .where(is_open, jobs.c.deadline <= now)
            .values(state="late", reason="its deadline passed", finished=now, owner=None)
        )
        hopeless = (
            update(jobs)
            .where(is_open, jobs.c.attempt >= MAX_ATTEMPTS)
            .values(state="failed", reason="given up", finished=now, owner=None)
        )
        with self.database.writing() as connection:
            return connection.execute(late).rowcount + connection.execute(hopeless).rowcount

    def job(self, id: str, client: str | None = None) -> Job | None:
        """A job; of one client, if one is named."""
        wanted, given = _BY_ID, {"id": id}
        if client is not None:
            wanted, given = _BY_ID_AND_CLIENT, {"id": id, "client": client}
        with self.database.reading() as connection:
            return _job(connection.execute(wanted, given).one_or_none())

    def counts(self) -> dict[str, int]:
        """Jobs that wait and that are drawn, and pictures that wait."""
        by_state = (
            select(jobs.c.state, func.count(), func.sum(jobs.c.count))
            .where(jobs.c.state.in_(("queued", "running")))
            .group_by(jobs.c.state)
        )
        with self.database.reading() as connection:
            found = {state: (n, total) for state, n, total in connection.execute(by_state)}
        queued, running = found.get("queued", (0, 0)), found.get("running", (0, 0))
        return {"queued": queued[0], "running": running[0], "pictures": int(queued[1])}

    def _waiting(self, connection: Connection) -> int:
        return int(connection.execute(_WAITING).scalar_one())

    def _repeated(self, connection: Connection, client: str, repeat_key: str) -> Job | None:
        same = and_(jobs.c.client == client, jobs.c.repeat_key == repeat_key)
        return _job(connection.execute(select(*_COLUMNS).where(same)).one_or_none())

    def _end(
        self,
        connection: Connection,
        id: str,
        owner: str,
        attempt: int,
        state: str,
        reason: str | None,
        now: float,
    ) -> bool:
        given = {"job": id, "by": owner, "claim": attempt, "now": state, "why": reason, "at": now}
        return connection.execute(_END, given).rowcount == 1


def _job(row: Any) -> Job | None:
    return None if row is None else Job(**row._asdict())

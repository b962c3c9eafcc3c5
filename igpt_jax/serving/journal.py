"""The audit log: who did what, when; never the contents of requests."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, insert, select

from igpt_jax.serving.database import Database
from igpt_jax.serving.schema import audit


class Journal:
    """The audit log of a database.

    Attributes:
        database: where it is.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self.clock = database, clock

    def write(self, client: str, action: str, subject: str, **detail: Any) -> None:
        """Adds an entry."""
        with self.database.writing() as connection:
            self.add(connection, client, action, subject, **detail)

    def add(
        self, connection: Connection, client: str, action: str, subject: str, **detail: Any
    ) -> None:
        """Adds an entry within a transaction of something else: both are there, or neither."""
        row = {
            "at": self.clock(), "client": client, "action": action, "subject": subject,
            "detail": detail,
        }  # fmt: skip
        connection.execute(insert(audit), row)

    def entries(self, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """The newest first, of those with smaller numbers than `before`."""
        found = select(audit).order_by(audit.c.number.desc()).limit(limit)
        if before is not None:
            found = found.where(audit.c.number < before)
        with self.database.reading() as connection:
            return [row._asdict() for row in connection.execute(found)]

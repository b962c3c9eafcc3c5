"""Opens SQLite or PostgreSQL, brings the tables up to date, and takes care of transactions."""

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from igpt_jax.errors import UserError

BUSY_SECONDS = 30
_CONNECTIONS = 40  # as many as threads of requests; more would be made and closed all the time
_MIGRATES = 4_913_402_113  # any number: the name of PostgreSQL's lock


class Database:
    """A database whose tables are up to date.

    SQLite belongs to one server: a lock on a file beside it ends with the process, however that
    ends. Any number of servers share one on PostgreSQL.

    Attributes:
        engine: SQLAlchemy's.
        is_sqlite: whether it is SQLite.
    """

    def __init__(self, url: str, *, is_shared: bool = False) -> None:
        """Opens it.

        Args:
            url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.
            is_shared: do not lock SQLite, to look after keys while a server runs.

        Raises:
            UserError: no such database, or another server has it.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise UserError(
                f"--database: expected sqlite:///FILE or postgresql://HOST/NAME, got {url!r}"
            ) from None
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise UserError(f"--database: expected sqlite or postgresql, got {kind}")
        self.is_sqlite, self._lock = kind == "sqlite", None
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise UserError("--database: expected sqlite:///FILE, got no file")
            path = Path(parsed.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not is_shared:
                self._lock = _lock_file(path)
            self.engine = create_engine(
                parsed, connect_args={"timeout": BUSY_SECONDS}, pool_size=_CONNECTIONS
            )
            _begin_ourselves(self.engine)
        else:
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=16)
        self._writer = self.engine.execution_options(igpt_writes=True)  # the same connections
        # SQLite lets who waits to write look again after a while; a lock wakes the next at once.
        self._turn = threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        try:
            self._migrate()
        except SQLAlchemyError as error:
            self.close()
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise UserError(f"--database: expected a database that opens, got {reason}") from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes: all of it or nothing is there afterwards."""
        with self._turn, self._writer.begin() as connection:
            yield connection

    def is_well(self) -> bool:
        """Whether it answers."""
        try:
            with self.reading() as connection:
                return connection.execute(text("SELECT 1")).scalar() == 1
        except SQLAlchemyError:
            return False

    def close(self) -> None:
        """Closes all connections and gives the lock back."""
        self.engine.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _migrate(self) -> None:
        with self.writing() as connection:
            if not self.is_sqlite:  # servers that start together
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATES})"))
            command.upgrade(migrations(connection), "head")


def migrations(connection: Connection) -> Config:
    """Alembic's config, for a connection."""
    config = Config()
    folder = resources.files("igpt_jax.serving").joinpath("migrations")
    config.set_main_option("script_location", str(folder))
    config.attributes["connection"] = connection
    return config


def _lock_file(path: Path) -> Any:
    lock = path.with_name(path.name + ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(
            f"{path}: expected a database of its own, got one that another server has open; stop "
            "that one, or use PostgreSQL for several"
        ) from None
    return lock


def _begin_ourselves(engine: Engine) -> None:
    """Python's sqlite3 would begin transactions late, and not as writers."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # what was accepted survives a loss of power
            "foreign_keys=ON",
            f"busy_timeout={1000 * BUSY_SECONDS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that wants to write later could only fail; a writer waits for its turn at once.
        writes = connection.get_execution_options().get("igpt_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

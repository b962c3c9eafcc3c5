"""The pictures that were made: finding, showing and removing their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, literal_column, select, text

from igpt_jax.serving.database import Database
from igpt_jax.serving.schema import pictures
from igpt_jax.serving.words import phrases_of


@dataclass(frozen=True)
class Picture:
    """A picture as the database has it.

    Attributes:
        number: counts all pictures; larger is newer.
        id: its name, 32 hexadecimal digits.
        job: what it was made by.
        index: of the picture in the job.
        client: who asked.
        model: what drew it.
        prompt: what it was asked to show.
        label: class.
        class_name: of the class.
        settings: all that was asked.
        seed: of the job.
        width: pixels.
        height: pixels.
        file: name of its file.
        bytes: of the file.
        sha256: of the file.
        created: seconds since 1970.
    """

    number: int
    id: str
    job: str
    index: int
    client: str
    model: str
    prompt: str | None
    label: int | None
    class_name: str | None
    settings: Mapping[str, Any]
    seed: int
    width: int
    height: int
    file: str
    bytes: int
    sha256: str
    created: float


@dataclass(frozen=True)
class Query:
    """Which pictures are wanted; None is any.

    Attributes:
        text: words, or runs of Chinese characters, that are all in the prompt, the name of the
            class or the values of attributes.
        label: class.
        class_name: its name, as it is.
        model: what drew them.
        job: what they were made by.
        since: seconds since 1970.
        until: the same.
        before: number of a picture; only older ones.
    """

    text: str | None = None
    label: int | None = None
    class_name: str | None = None
    model: str | None = None
    job: str | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None


_COLUMNS = [pictures.c[name] for name in Picture.__annotations__]

# Put together once, as those of jobs.
_BY_ID = select(*_COLUMNS).where(pictures.c.id == bindparam("id"))
_BY_ID_AND_CLIENT = _BY_ID.where(pictures.c.client == bindparam("client"))
_OF_JOB = select(*_COLUMNS).where(pictures.c.job == bindparam("job")).order_by(pictures.c.index)


class Album:
    """The pictures of a database.

    Attributes:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def search(self, query: Query, limit: int, client: str | None = None) -> list[Picture]:
        """The newest first.

        Args:
            query: which.
            limit: at most so many.
            client: whose; None for everybody's.
        """
        conditions = _conditions(query)
        if client is not None:
            conditions.append(pictures.c.client == client)
        if query.text is not None:
            phrases = phrases_of(query.text)
            if not phrases:
                return []
            conditions.append(self._shows(phrases))
        found = (
            select(*_COLUMNS)
            .where(and_(True, *conditions))
            .order_by(pictures.c.number.desc())
            .limit(limit)
        )
        with self.database.reading() as connection:
            return [Picture(**row._asdict()) for row in connection.execute(found)]

    def of_job(self, job: str) -> list[Picture]:
        """The pictures of a job, in their order."""
        with self.database.reading() as connection:
            return [Picture(**row._asdict()) for row in connection.execute(_OF_JOB, {"job": job})]

    def picture(self, id: str, client: str | None = None) -> Picture | None:
        """A picture; of one client, if one is named."""
        wanted, given = _BY_ID, {"id": id}
        if client is not None:
            wanted, given = _BY_ID_AND_CLIENT, {"id": id, "client": client}
        with self.database.reading() as connection:
            row = connection.execute(wanted, given).one_or_none()
        return None if row is None else Picture(**row._asdict())

    def remove(self, id: str) -> bool:
        """Takes a row out; its file is to follow. Whether it was there."""
        with self.database.writing() as connection:
            return connection.execute(delete(pictures).where(pictures.c.id == id)).rowcount == 1

    def _shows(self, phrases: Sequence[str]) -> ColumnElement[bool]:
        if self.database.is_sqlite:
            # Words are letters and digits alone, so that quotes hold them.
            match = " AND ".join(f'"{phrase}"' for phrase in phrases)
            found = text("SELECT rowid FROM picture_words WHERE picture_words MATCH :match")
            return pictures.c.number.in_(found.bindparams(match=match).columns(pictures.c.number))
        words = func.to_tsvector(literal_column("'simple'"), pictures.c.words)
        wanted = [func.phraseto_tsquery(literal_column("'simple'"), phrase) for phrase in phrases]
        return and_(*(words.bool_op("@@")(phrase) for phrase in wanted))


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    columns, conditions = pictures.c, []
    for name in ("label", "class_name", "model", "job"):
        value = getattr(query, name)
        if value is not None:
            conditions.append(columns[name] == value)
    if query.since is not None:
        conditions.append(columns.created >= query.since)
    if query.until is not None:
        conditions.append(columns.created < query.until)
    if query.before is not None:
        conditions.append(columns.number < query.before)
    return conditions

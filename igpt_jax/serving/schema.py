"""The tables. Times are seconds since 1970, UTC."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

NAMES = {
    "ix": "%(table_name)s_%(column_0_N_name)s",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
metadata = MetaData(naming_convention=NAMES)

# SQLite numbers rows by itself in a column of exactly this type.
NUMBER = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("number", NUMBER, primary_key=True),  # the order in which they were accepted
    Column("id", String(32), nullable=False, unique=True),
    Column("client", String(64), nullable=False),
    Column("repeat_key", String(64)),  # the client's own name for the request
    Column("model", String(200), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("count", Integer, nullable=False),
    Column("inputs", JSON, nullable=False),  # names of files: image, mask
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("tokens", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("owner", String(100)),  # the server that draws it
    Column("lease_until", Double),  # when others may take it over
    Column("attempt", Integer, nullable=False),  # a finish of an older one does not count
    Column("created", Double, nullable=False),
    Column("deadline", Double, nullable=False),
    Column("finished", Double),
    UniqueConstraint("client", "repeat_key"),
    Index("jobs_state_number", "state", "number"),
    Index("jobs_client_number", "client", "number"),
)

pictures = Table(
    "pictures",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("job", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("index", Integer, nullable=False),
    Column("client", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("prompt", Text),
    Column("label", Integer),
    Column("class_name", Text),
    Column("settings", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("file", String(200), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("words", Text, nullable=False),  # what full-text search sees
    Column("created", Double, nullable=False),
    UniqueConstraint("job", "index"),
    Index("pictures_client_number", "client", "number"),
    Index("pictures_label_number", "label", "number"),
    Index("pictures_created", "created"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("per_minute", Integer, nullable=False),  # 0 for no limit
    Column("created", Double, nullable=False),
    Column("revoked", Double),
)

audit = Table(
    "audit",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("at", Double, nullable=False),
    Column("client", String(64), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(100), nullable=False),
    Column("detail", JSON, nullable=False),
    Index("audit_at", "at"),
)

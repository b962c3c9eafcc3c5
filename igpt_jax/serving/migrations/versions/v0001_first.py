"""Jobs, pictures, keys, audit log and full-text search."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes everything."""
    op.create_table(
        "jobs",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("repeat_key", sa.String(64)),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(100)),
        sa.Column("lease_until", sa.Double),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("deadline", sa.Double, nullable=False),
        sa.Column("finished", sa.Double),
        sa.PrimaryKeyConstraint("number", name="jobs_pkey"),
        sa.UniqueConstraint("id", name="jobs_id_key"),
        sa.UniqueConstraint("client", "repeat_key", name="jobs_client_repeat_key_key"),
    )
    op.create_index("jobs_state_number", "jobs", ["state", "number"])
    op.create_index("jobs_client_number", "jobs", ["client", "number"])
    op.create_table(
        "pictures",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("prompt", sa.Text),
        sa.Column("label", sa.Integer),
        sa.Column("class_name", sa.Text),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("file", sa.String(200), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pictures_pkey"),
        sa.UniqueConstraint("id", name="pictures_id_key"),
        sa.UniqueConstraint("job", "index", name="pictures_job_index_key"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="pictures_job_fkey"),
    )
    op.create_index("pictures_client_number", "pictures", ["client", "number"])
    op.create_index("pictures_label_number", "pictures", ["label", "number"])
    op.create_index("pictures_created", "pictures", ["created"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("per_minute", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("revoked", sa.Double),
        sa.PrimaryKeyConstraint("id", name="keys_pkey"),
    )
    op.create_table(
        "audit",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("number", name="audit_pkey"),
    )
    op.create_index("audit_at", "audit", ["at"])
    for statement in SEARCH[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    """Drops everything."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE picture_words")
    for table in ("audit", "keys", "pictures", "jobs"):
        op.drop_table(table)


# An index over the column `words`; triggers keep SQLite's up to date, which is a table of its own.
SEARCH = {
    "sqlite": (
        "CREATE VIRTUAL TABLE picture_words USING fts5("
        "words, content='pictures', content_rowid='number', "
        "tokenize='unicode61 remove_diacritics 0')",
        "CREATE TRIGGER pictures_added AFTER INSERT ON pictures BEGIN "
        "INSERT INTO picture_words(rowid, words) VALUES (new.number, new.words); END",
        "CREATE TRIGGER pictures_removed AFTER DELETE ON pictures BEGIN "
        "INSERT INTO picture_words(picture_words, rowid, words) "
        "VALUES ('delete', old.number, old.words); END",
    ),
    "postgresql": (
        "CREATE INDEX pictures_words ON pictures USING gin (to_tsvector('simple', words))",
    ),
}

"""API keys: `igpt_ID_SECRET`, of which the database has a hash of the secret alone.

The secret is 32 random bytes. A fast hash is enough for it: no list of likely ones exists, which
slow hashes of passwords are made against.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update

from igpt_jax.errors import UserError
from igpt_jax.serving.database import Database
from igpt_jax.serving.schema import keys

SCOPES = ("generate", "read", "delete", "classify", "metrics", "admin")
"""What a key allows; `admin` all of it, and to see what others made."""

DEFAULT_SCOPES = ("generate", "read", "delete", "classify")
_KEY = re.compile(r"igpt_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret.

    Attributes:
        id: 16 hexadecimal digits, the first part of the key.
        name: whose it is.
        scopes: what it allows.
        per_minute: requests; 0 for no limit.
        created: seconds since 1970.
        revoked: the same, or None.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    per_minute: int
    created: float
    revoked: float | None


class Keyring:
    """The keys of a database.

    Attributes:
        database: where they are.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self.clock = database, clock

    def add(
        self, name: str, scopes: Sequence[str] = DEFAULT_SCOPES, per_minute: int = 120
    ) -> tuple[ApiKey, str]:
        """Makes a key.

        Returns:
            It, and the text that the client sends, which is never seen again.

        Raises:
            UserError: no such scope, or no name.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise UserError(f"scopes: expected some of {', '.join(SCOPES)}, got {list(scopes)}")
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise UserError(f"name: expected 1 to 100 letters, got {name!r}")
        if not 0 <= per_minute <= 1_000_000:
            raise UserError(f"per-minute: expected 0 (no limit) to 1000000, got {per_minute}")
        id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        key = ApiKey(id, name, tuple(scopes), per_minute, self.clock(), None)
        row = {**vars(key), "scopes": list(scopes), "hash": _hash(secret)}
        with self.database.writing() as connection:
            connection.execute(insert(keys).values(row))
        return key, f"igpt_{id}_{secret}"

    def check(self, sent: str) -> ApiKey | None:
        """The key that a client sent; None where it is none, or revoked."""
        match = _KEY.fullmatch(sent)
        if match is None:
            return None
        with self.database.reading() as connection:
            row = connection.execute(select(keys).where(keys.c.id == match[1])).one_or_none()
        if row is None or row.revoked is not None:
            return None
        if not hmac.compare_digest(row.hash, _hash(match[2])):
            return None
        return _key(row)

    def revoke(self, id: str) -> bool:
        """Ends a key; whether there was one."""
        ended = update(keys).where(keys.c.id == id, keys.c.revoked.is_(None))
        with self.database.writing() as connection:
            return connection.execute(ended.values(revoked=self.clock())).rowcount == 1

    def all(self) -> list[ApiKey]:
        """Every key, the oldest first."""
        with self.database.reading() as connection:
            rows = connection.execute(select(keys).order_by(keys.c.created, keys.c.name))
            return [_key(row) for row in rows]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Any) -> ApiKey:
    return ApiKey(row.id, row.name, tuple(row.scopes), row.per_minute, row.created, row.revoked)

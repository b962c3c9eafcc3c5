"""Columns of equally many rows in numbered files: arrays, memory-mapped when read, and texts.

A column `tokens` of shard 0 is `tokens-00000.npy`, where several processes write shards
`tokens-00002-00000.npy` for the third of them. A column of texts is one array of bytes, UTF-8,
and `NAME-starts-00000.npy` [n + 1], where each text begins in it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from igpt_jax.data.examples import check_index
from igpt_jax.errors import UserError

_STARTS = "starts"


class ShardWriter:
    """Collects rows and writes a file a column whenever a shard is full."""

    def __init__(self, directory: Path, shard_size: int, prefix: str = "") -> None:
        """Writes nothing yet; names of shards begin with the prefix."""
        self._directory, self._shard_size, self._prefix = directory, shard_size, prefix
        self._columns: dict[str, list[np.ndarray]] = {}
        self._count = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Takes rows; the same columns each time."""
        for name, rows in columns.items():
            kept = rows.astype(object) if rows.dtype.kind == "U" else rows  # not the widest's room
            self._columns.setdefault(name, []).append(kept)
        self._count += len(next(iter(columns.values())))
        while self._count >= self._shard_size:
            self._write(self._shard_size)

    def close(self) -> list[dict[str, Any]]:
        """Writes what is left; the name and count of every shard."""
        if self._count:
            self._write(self._count)
        return self._shards

    def _write(self, count: int) -> None:
        name = f"{self._prefix}{len(self._shards):05d}"
        for column, parts in self._columns.items():
            rows = np.concatenate(parts)
            self._save(column, name, rows[:count])
            self._columns[column] = [rows[count:]]
        self._shards.append({"name": name, "count": count})
        self._count -= count

    def _save(self, column: str, name: str, rows: np.ndarray) -> None:
        if rows.dtype.kind == "O":
            texts = [text.encode() for text in rows.tolist()]
            starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
            np.save(self._directory / f"{column}-{_STARTS}-{name}.npy", starts)
            rows = np.frombuffer(b"".join(texts), np.uint8)
        np.save(self._directory / f"{column}-{name}.npy", rows)


class ShardReader:
    """Random access to the rows of some columns.

    Attributes:
        columns: the arrays of each column, one a shard; of texts, their bytes.
    """

    def __init__(
        self, directory: Path, shards: Sequence[Mapping[str, Any]], columns: Sequence[str]
    ) -> None:
        """Opens every file.

        Raises:
            UserError: one is missing, damaged or of another length.
        """
        self.columns: dict[str, list[np.ndarray]] = {name: [] for name in columns}
        self._text_starts: dict[str, list[np.ndarray]] = {}
        for shard in shards:
            for column in columns:
                self._open(directory, column, shard["name"], shard["count"])
        self._starts = np.cumsum([0, *(shard["count"] for shard in shards)])

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def row(self, index: Any) -> dict[str, Any]:
        """One row: an array of each column, or a text."""
        position = check_index(index, len(self))
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        row = position - int(self._starts[shard])
        return {name: self._value(name, shard, row) for name in self.columns}

    def _value(self, column: str, shard: int, row: int) -> Any:
        rows = self.columns[column][shard]
        if column not in self._text_starts:
            return rows[row]
        start, end = self._text_starts[column][shard][row : row + 2]
        return bytes(rows[start:end]).decode()

    def _open(self, directory: Path, column: str, name: str, count: int) -> None:
        path = directory / f"{column}-{name}.npy"
        starts_path = directory / f"{column}-{_STARTS}-{name}.npy"
        rows, found = _array(path), None
        if starts_path.is_file():
            starts = _array(starts_path)
            self._text_starts.setdefault(column, []).append(starts)
            fits = len(starts) and starts[-1] == len(rows)
            found = len(starts) - 1 if fits else 0
        self.columns[column].append(rows)
        found = len(rows) if found is None else found
        if found != count:
            raise UserError(f"{path}: expected {count} rows, got {found}; encode again")


def _array(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, SyntaxError, TokenError) as error:  # the last two of the header
        raise UserError(f"{path}: expected an array, got none; encode again") from error

"""A data set's tokens, written once: shards of arrays behind a header that says what they are."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from tqdm import tqdm

from igpt_jax.data.examples import check_index
from igpt_jax.data.geometry import flip_horizontal, ten_crop
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.transforms import TransformConfig, deterministic, transform
from igpt_jax.errors import UserError
from igpt_jax.grid import image_grid, save_png
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.typing import Float, Int, UInt8

FORMAT = 1
NUM_CHECKED = 16  # pictures kept beside the tokens, to find out whether these still decode to them

# uint8 [b h w 3] -> int [b l], and back
Encode = Callable[[UInt8[np.ndarray, "b h w 3"]], Int[np.ndarray, "b l"]]
Decode = Callable[[Int[np.ndarray, "b l"]], UInt8[np.ndarray, "b h w 3"]]


@dataclass(frozen=True)
class EncodingConfig:
    """How a data set is written as tokens.

    Attributes:
        views: versions of each picture: as it is; also mirrored; or corners and centre of a
            picture 1.1 times as large, and their mirrors (LlamaGen, section 3.1).
        batch_size: pictures encoded at once.
        shard_size: examples a file.
    """

    views: Literal["one", "mirrored", "ten_crop"] = "one"
    batch_size: int = 64
    shard_size: int = 65_536

    def __post_init__(self) -> None:
        """Refuses sizes that no data set has."""
        if self.batch_size < 1 or self.shard_size < 1:
            raise UserError(
                "encoding: expected batch_size and shard_size of at least 1, got "
                f"{self.batch_size} and {self.shard_size}"
            )


def make_views(
    config: EncodingConfig, preparation: TransformConfig, image: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "views s s 3"]:
    """The versions of one picture whose tokens are written; nothing in them is random."""
    preparation, unused = deterministic(preparation), np.random.default_rng(0)
    if config.views == "ten_crop":
        size = preparation.image_size
        larger = dataclasses.replace(preparation, image_size=int(1.1 * size))
        return ten_crop(transform(larger, image, unused), size)
    prepared = transform(preparation, image, unused)
    if config.views == "mirrored":
        return np.stack([prepared, flip_horizontal(prepared)])
    return prepared[None]


def encode_dataset(
    batches: Iterable[dict[str, np.ndarray]],
    encode: Encode,
    decode: Decode,
    directory: Path,
    *,
    config: EncodingConfig,
    header: Mapping[str, Any],
    total: int,
    skipped: SkippedImages,
) -> dict[str, Any]:
    """Writes tokens and labels of all batches to a directory, whole or not at all.

    Args:
        batches: `{"image": uint8 [b views h w 3], "label": int32 [b]}`, each picture once, see
            `make_views`.
        encode: pictures to tokens.
        decode: tokens to pictures, for the picture that shows what was lost.
        directory: gets `header.json`, `tokens-00000.npy` [n l], `labels-00000.npy` [n], ...,
            `check.npz` and `check.png`.
        config: views and sizes.
        header: what the tokens are: tokenizer hash, vocabulary, grid, preprocessing.
        total: pictures, for the progress bar.
        skipped: what the pipeline of `batches` left out; it is counted in the header.

    Returns:
        The header as written, with the counts.
    """
    temporary = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writer = _ShardWriter(temporary, config.shard_size, header["vocab_size"])
    checked: list[tuple[np.ndarray, np.ndarray]] = []
    with tqdm(total=total, desc=f"tokens of {directory.name}", unit="image") as bar:
        for batch in batches:
            for images in np.moveaxis(batch["image"], 1, 0):
                tokens = np.asarray(encode(images))
                writer.add(tokens, batch["label"])
                if not checked:
                    kept = min(NUM_CHECKED, config.shard_size)
                    checked.append((images[:kept], tokens[:kept]))
            bar.update(len(batch["image"]))
    shards = writer.close()
    if not checked:
        raise UserError(f"{directory}: expected at least one picture to encode, found none")
    images, tokens = checked[0]
    np.savez(temporary / "check.npz", images=images, tokens=tokens)
    pairs = np.concatenate([images, decode(tokens)])
    save_png(temporary / "check.png", image_grid(pairs, columns=len(images)))
    written = {
        "format": FORMAT,
        **header,
        "views": config.views,
        "num_examples": sum(shard["count"] for shard in shards),
        "num_skipped": skipped.broken,
        "shards": shards,
    }
    write_json(temporary / "header.json", written)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(temporary, directory)
    return written


class _ShardWriter:
    """Collects rows and writes a pair of files whenever a shard is full."""

    def __init__(self, directory: Path, shard_size: int, vocab_size: int) -> None:
        self._directory, self._shard_size = directory, shard_size
        self._dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
        self._tokens: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._shards: list[dict[str, Any]] = []

    def add(self, tokens: Int[np.ndarray, "b l"], labels: Int[np.ndarray, " b"]) -> None:
        self._tokens.append(tokens.astype(self._dtype))
        self._labels.append(np.asarray(labels, np.int32))
        while sum(map(len, self._labels)) >= self._shard_size:
            self._write(self._shard_size)

    def close(self) -> list[dict[str, Any]]:
        if sum(map(len, self._labels)):
            self._write(self._shard_size)
        return self._shards

    def _write(self, count: int) -> None:
        tokens, labels = np.concatenate(self._tokens), np.concatenate(self._labels)
        name = f"{len(self._shards):05d}"
        np.save(self._directory / f"tokens-{name}.npy", tokens[:count])
        np.save(self._directory / f"labels-{name}.npy", labels[:count])
        self._shards.append({"name": name, "count": len(tokens[:count])})
        self._tokens, self._labels = [tokens[count:]], [labels[count:]]


def read_header(directory: Path) -> dict[str, Any]:
    """The header of encoded tokens.

    Raises:
        UserError: there is none, or it is of another format.
    """
    path = directory / "header.json"
    if not path.is_file():
        raise UserError(f"{directory}: expected encoded tokens (header.json), found none; encode")
    header = read_json(path, "delete the folder to encode again")
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected format {FORMAT}, got {header.get('format')}; delete the folder to "
            "encode again"
        )
    return header


class TokenSource:
    """Random access to encoded tokens, memory-mapped: `{"tokens": int32 [l], "label": int32}`.

    Opening refuses tokens of another tokenizer or preprocessing, and encodes the pictures kept
    beside them to see that they still give the same tokens.
    """

    def __init__(
        self, directory: Path, *, expected: Mapping[str, Any], encode: Encode | None = None
    ) -> None:
        """Opens the shards.

        Args:
            directory: written by `encode_dataset`.
            expected: header entries that must be equal.
            encode: the tokenizer to check with; None skips that check.

        Raises:
            UserError: a mismatch or a damaged file.
        """
        self.header = read_header(directory)
        for key, value in expected.items():
            if self.header.get(key) != json.loads(json.dumps(value)):
                raise UserError(
                    f"{directory}: expected tokens with {key} {value}, got {self.header.get(key)}; "
                    "delete the folder to encode again"
                )
        self._tokens, self._labels = self._open(directory)
        self._starts = np.cumsum([0, *map(len, self._tokens)])
        if encode is not None:
            self._check(directory, encode)

    def __len__(self) -> int:
        """Number of examples, every view counted."""
        return int(self._starts[-1])

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """One example."""
        position = check_index(index, len(self))
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        row = position - self._starts[shard]
        return {
            "tokens": self._tokens[shard][row].astype(np.int32),
            "label": self._labels[shard][row].astype(np.int32),
        }

    def marginal(self) -> Float[np.ndarray, " v"]:
        """Share of each token among all."""
        size = self.header["vocab_size"]
        parts = [np.bincount(shard.ravel(), minlength=size) for shard in self._tokens]
        counts = np.sum(parts, axis=0)
        return counts / counts.sum()

    def _open(self, directory: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
        tokens, labels = [], []
        for shard in self.header["shards"]:
            for kind, arrays in (("tokens", tokens), ("labels", labels)):
                path = directory / f"{kind}-{shard['name']}.npy"
                try:
                    arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
                except (OSError, ValueError) as error:
                    raise UserError(f"{path}: expected an array, got none; encode again") from error
                found, expected = len(arrays[-1]), shard["count"]
                if found != expected:
                    raise UserError(f"{path}: expected {expected} rows, got {found}; encode again")
        return tokens, labels

    def _check(self, directory: Path, encode: Encode) -> None:
        path = directory / "check.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                images, tokens = kept["images"], kept["tokens"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: expected pictures to check with; encode again") from error
        stored = np.asarray(self._tokens[0][: len(tokens)])
        if not np.array_equal(stored, tokens):
            raise UserError(f"{path}: the tokens beside it are others; encode again")
        agreement = float(np.mean(np.asarray(encode(images)) == tokens))
        if agreement < 0.99:  # other devices round near ties of two codes otherwise
            raise UserError(
                f"{directory}: expected the tokenizer to give the stored tokens, got "
                f"{agreement:.1%} of them; encode again"
            )

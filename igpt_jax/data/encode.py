"""A data set's tokens, written once: shards of arrays behind a header that says what they are."""

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from tqdm import tqdm

from igpt_jax.data.geometry import flip_horizontal, ten_crop
from igpt_jax.data.shards import ShardReader
from igpt_jax.data.skipped import SkippedImages, check_broken
from igpt_jax.data.token_parts import (
    FORMAT,
    Decode,
    Encode,
    encode_part,
    first_with_rows,
    header_of,
    part_of_text,
    write_check,
)
from igpt_jax.data.transforms import TransformConfig, deterministic, transform
from igpt_jax.errors import UserError
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.processes import barrier, collect_files, is_first, texts_of_all, which
from igpt_jax.typing import Float, UInt8


@dataclass(frozen=True)
class EncodingConfig:
    """How a data set is written as tokens.

    Attributes:
        views: versions of each picture: as it is; also mirrored; or corners and centre of a
            picture 1.1 times as large, and their mirrors (LlamaGen, section 3.2).
        batch_size: pictures that a process encodes at once, on all of its devices.
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
    max_broken_share: float = 1.0,
) -> dict[str, Any]:
    """Writes tokens, labels and what else there is to a directory, whole or not at all.

    Of several processes all call it, each with the batches of its own part, see `part_range`. The
    first makes the directory of what all have written.

    Args:
        batches: `{"image": uint8 [b views *t h w 3], "label": int32 [b]}`, each picture once, see
            `make_views`; where there are some, also `"cond_image"`, like the image;
            `"captions"` [b], a JSON list of texts each; `"attributes"`, int32 [b a].
        encode: pictures to tokens.
        decode: tokens to pictures, for the picture that shows what was lost.
        directory: gets `header.json`, `tokens-00000.npy` [n l], `labels-00000.npy` [n], ... (see
            `shards`), `check.npz` and `check.png`.
        config: views and sizes.
        header: what the tokens are: tokenizer hash, vocabulary, grid, preprocessing.
        total: pictures of `batches`, for the progress bar.
        skipped: what the pipeline of `batches` left out; it is counted in the header.
        max_broken_share: largest accepted share of broken pictures, over all processes.

    Returns:
        The header as written, with the counts.

    Raises:
        UserError: too many pictures are broken, or there are none; or processes that should see
            one directory do not.
    """
    temporary = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    barrier(f"no {temporary.name}")  # or a later process removes what an earlier one writes
    temporary.mkdir(parents=True, exist_ok=True)
    index, count = which()
    own, checked = encode_part(
        _shown(batches, total, directory.name),
        encode,
        temporary,
        vocab_size=header["vocab_size"],
        shard_size=config.shard_size,
        skipped=skipped,
        prefix="" if count == 1 else f"{index:05d}-",
    )
    parts = [part_of_text(text) for text in texts_of_all(own.as_text())]
    seen, broken = (sum(getattr(part, name) for part in parts) for name in ("seen", "broken"))
    reasons = [reason for part in parts for reason in part.reasons]
    check_broken(broken, seen, reasons, max_broken_share)
    written = header_of(parts, header, config.views)
    if index == first_with_rows(parts):
        assert checked is not None
        write_check(temporary, checked, decode)
    collect_files(temporary, directory)
    if is_first():
        # Refuses what is not there: processes may have been told of directories that are not one.
        ShardReader(temporary, written["shards"], written["columns"])
        write_json(temporary / "header.json", written)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(temporary, directory)
    return written


def _shown(
    batches: Iterable[dict[str, np.ndarray]], total: int, name: str
) -> Iterator[dict[str, np.ndarray]]:
    """The batches, behind a progress bar."""
    with tqdm(total=total, desc=f"tokens of {name}", unit="image") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch["image"]))


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

    Where they were written, examples also have `"cond_tokens"` int32 [l], `"attributes"` int32 [a]
    and `"captions"`, a JSON list of texts.

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
        columns = self.header.get("columns", ["tokens", "labels"])
        self._rows = ShardReader(directory, self.header["shards"], columns)
        if encode is not None:
            self._check(directory, encode)

    def __len__(self) -> int:
        """Number of examples, every view counted."""
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        """One example."""
        row = self._rows.row(index)
        example: dict[str, Any] = {
            "tokens": row["tokens"].astype(np.int32),
            "label": row["labels"].astype(np.int32),
        }
        if "cond_tokens" in row:
            example["cond_tokens"] = row["cond_tokens"].astype(np.int32)
        if "attributes" in row:
            example["attributes"] = row["attributes"].astype(np.int32)
        if "captions" in row:
            example["captions"] = row["captions"]
        return example

    def captions(self, index: SupportsIndex) -> tuple[str, ...]:
        """The captions of an example, the main one first; none if it was encoded without."""
        return tuple(json.loads(self._rows.row(index).get("captions", "[]")))

    def marginal(self) -> Float[np.ndarray, " v"]:
        """Share of each token among all."""
        size = self.header["vocab_size"]
        shards = self._rows.columns["tokens"]
        counts = np.sum([np.bincount(shard.ravel(), minlength=size) for shard in shards], axis=0)
        return counts / counts.sum()

    def _check(self, directory: Path, encode: Encode) -> None:
        path = directory / "check.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                images, tokens = kept["images"], kept["tokens"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: expected pictures to check with; encode again") from error
        stored = np.asarray(self._rows.columns["tokens"][0][: len(tokens)])
        if not np.array_equal(stored, tokens):
            raise UserError(f"{path}: the tokens beside it are others; encode again")
        agreement = float(np.mean(np.asarray(encode(images)) == tokens))
        if agreement < 0.99:  # other devices round near ties of two codes otherwise
            raise UserError(
                f"{directory}: expected the tokenizer to give the stored tokens, got "
                f"{agreement:.1%} of them; encode again"
            )

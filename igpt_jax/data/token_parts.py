"""The tokens of a part of a data set, as one process writes them, and of all parts together."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from igpt_jax.data.shards import ShardWriter
from igpt_jax.data.skipped import LISTED, SkippedImages
from igpt_jax.errors import UserError
from igpt_jax.grid import image_grid, save_png
from igpt_jax.typing import Int, UInt8

FORMAT: Final = 1
NUM_CHECKED: Final = 16  # pictures kept beside the tokens: do these still decode to them?

Encode: TypeAlias = Callable[[UInt8[np.ndarray, "b *t h w 3"]], Int[np.ndarray, "b l"]]
Decode: TypeAlias = Callable[[Int[np.ndarray, "b l"]], UInt8[np.ndarray, "b *t h w 3"]]


def part_range(length: int, batch_size: int, part: int, num_parts: int) -> range:
    """The indices of one of several parts of a data set, cut where batches end.

    Parts differ by one batch at most. The first has some; others have none where there are more
    parts than batches.

    Args:
        length: of the data set.
        batch_size: items of a batch.
        part: which, from 0.
        num_parts: of how many.
    """
    batches = -(-length // batch_size)
    first, end = (-(-batches * border // num_parts) for border in (part, part + 1))
    return range(min(first * batch_size, length), min(end * batch_size, length))


@dataclass(frozen=True)
class TokenPart:
    """What a process has written, as the others are told of it.

    Attributes:
        columns: names; none where there are no shards.
        shards: name and count of each.
        seen: pictures, broken or not.
        broken: pictures that were left out.
        reasons: of the first of these.
    """

    columns: Sequence[str]
    shards: Sequence[Mapping[str, Any]]
    seen: int
    broken: int
    reasons: Sequence[str]

    def as_text(self) -> str:
        """One line of JSON; `part_of_text` reads it."""
        return json.dumps(dataclasses.asdict(self))


def part_of_text(text: str) -> TokenPart:
    """The part that a text is of."""
    return TokenPart(**json.loads(text))


class Checked(NamedTuple):
    """The first pictures of a part and their tokens."""

    images: UInt8[np.ndarray, "b *t h w 3"]
    tokens: Int[np.ndarray, "b l"]


def encode_part(
    batches: Iterable[dict[str, np.ndarray]],
    encode: Encode,
    directory: Path,
    *,
    vocab_size: int,
    shard_size: int,
    skipped: SkippedImages,
    prefix: str = "",
) -> tuple[TokenPart, Checked | None]:
    """Writes the shards of one part; all else is as in `encode_dataset`.

    Args:
        batches: of the part, maybe none.
        encode: pictures to tokens.
        directory: which other parts write to, too.
        vocab_size: decides the width of numbers.
        shard_size: examples a file.
        skipped: what the pipeline of `batches` left out.
        prefix: with which names of shards begin.

    Returns:
        What was written, and its first pictures, where there are any.
    """
    writer = ShardWriter(directory, shard_size, prefix)
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
    columns: tuple[str, ...] = ()
    checked: Checked | None = None
    for batch in batches:
        for view, images in enumerate(np.moveaxis(batch["image"], 1, 0)):
            tokens = np.asarray(encode(images))
            rows = {"tokens": tokens.astype(dtype), "labels": batch["label"].astype(np.int32)}
            rows |= {name: batch[name] for name in ("captions", "attributes") if name in batch}
            if "cond_image" in batch:
                cond_tokens = np.asarray(encode(batch["cond_image"][:, view]))
                rows["cond_tokens"] = cond_tokens.astype(dtype)
            writer.add(rows)
            columns = tuple(rows)
            if checked is None:
                kept = min(NUM_CHECKED, shard_size)
                checked = Checked(images[:kept], tokens[:kept])
    shards, reasons = writer.close(), skipped.reasons[:LISTED]
    return TokenPart(columns, shards, skipped.seen, skipped.broken, reasons), checked


def first_with_rows(parts: Sequence[TokenPart]) -> int | None:
    """The first part that has any examples; None where none has."""
    return next((index for index, part in enumerate(parts) if part.shards), None)


def write_check(directory: Path, checked: Checked, decode: Decode) -> None:
    """Writes `check.npz`, pictures and tokens, and `check.png`, which shows what was lost."""
    images, tokens = checked
    np.savez(directory / "check.npz", images=images, tokens=tokens)
    both = [
        pictures.reshape(-1, *pictures.shape[-3:])[:NUM_CHECKED]
        for pictures in (images, np.asarray(decode(tokens)))
    ]
    save_png(directory / "check.png", image_grid(np.concatenate(both), columns=len(both[0])))


def header_of(parts: Sequence[TokenPart], header: Mapping[str, Any], views: str) -> dict[str, Any]:
    """The header of all parts behind each other.

    Args:
        parts: in their order.
        header: what the tokens are, see `encode_dataset`.
        views: versions of each picture.

    Raises:
        UserError: there are no examples.
    """
    first = first_with_rows(parts)
    if first is None:
        raise UserError("data: expected at least one picture to encode, found none")
    shards = [shard for part in parts for shard in part.shards]
    return {
        "format": FORMAT,
        **header,
        "views": views,
        "columns": list(parts[first].columns),
        "num_examples": sum(shard["count"] for shard in shards),
        "num_skipped": sum(part.broken for part in parts),
        "shards": shards,
    }

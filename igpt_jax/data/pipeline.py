"""From random access to batches: an endless or finite, exactly repeatable Grain pipeline.

    positions -> shuffle -> repeat -> read, transform -> rows of a process -> threads -> batch

Everything up to the rows is a function of the seed and the global position alone. The stream of a
run is therefore the same for any number of processes, threads and restarts: each process reads its
rows of every batch of one global stream, and where a run is, is one number, the items so far.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, SupportsIndex, TypeAlias, runtime_checkable

import grain
import numpy as np

from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.skipped import Broken, SkippedImages
from igpt_jax.errors import UserError
from igpt_jax.typing import UInt8

Item: TypeAlias = Mapping[str, Any]
Batch: TypeAlias = dict[str, np.ndarray]
ImageTransform: TypeAlias = Callable[
    [UInt8[np.ndarray, "h w 3"], np.random.Generator], UInt8[np.ndarray, "h2 w2 3"]
]
ItemTransform: TypeAlias = Callable[[Item, np.random.Generator], Item]

_DEFAULT_THREADS: Final = min(8, os.cpu_count() or 1)
_DEFAULT_PREFETCH: Final = 256
_MAX_TRIES: Final = 100  # places looked at for an item instead of a broken one


@runtime_checkable
class ItemSource(Protocol):
    """Random access to dictionaries of arrays: pictures, token shards, or anything else."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Item: ...


def on_image(transform: ImageTransform) -> ItemTransform:
    """The transform of an item that changes its picture and leaves the rest."""
    return lambda item, rng: {**item, "image": transform(item["image"], rng)}


@dataclass(frozen=True)
class BatchDataset:
    """Batches of items, and of each batch the rows that one process reads; see `make_dataset`.

    Attributes:
        global_batch_size: items of a batch, over all processes.
        read: rows -> the batches of these rows.
        rows: of each batch, in rising order; all of them by default.
    """

    global_batch_size: int
    read: Callable[[Sequence[int]], grain.IterDataset[Batch]]
    rows: Sequence[int]

    def __iter__(self) -> "BatchIterator":
        return BatchIterator(self)

    def of_rows(self, rows: Sequence[int]) -> "BatchDataset":
        """The same batches, of each of them other rows."""
        return BatchDataset(self.global_batch_size, self.read, rows)


class BatchIterator(Iterator[Batch]):
    """Goes through batches, and to any of them.

    A position says how many items of the global stream all processes have had together: what one
    process has told, any number of processes goes on from.
    """

    def __init__(self, batches: BatchDataset) -> None:
        self._size, self._share = batches.global_batch_size, len(batches.rows)
        self._iterator = iter(batches.read(batches.rows))

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def position(self) -> int:
        """Items of the global stream so far."""
        batches, items = divmod(self._iterator.get_state()["next_index"], self._share)
        return batches * self._size + items

    def seek(self, position: int) -> None:
        """Goes to a position; what several processes share begins with a whole batch."""
        batches, items = divmod(position, self._size)
        is_whole = self._share == self._size
        self._iterator.set_state({"next_index": batches * self._share + items * is_whole})


def make_dataset(
    source: ItemSource,
    *,
    indices: range | None = None,
    transform: ItemTransform | None = None,
    global_batch_size: int,
    seed: int,
    shuffle: bool,
    num_epochs: int | None,
    num_threads: int = _DEFAULT_THREADS,
    prefetch: int = _DEFAULT_PREFETCH,
    max_broken_share: float = 0.01,
    drop_remainder: bool | None = None,
    skipped: SkippedImages | None = None,
) -> BatchDataset:
    """Batch the items of a source, pictures or tokens: dictionaries of arrays and numbers.

    An iterator of an equal dataset, moved to another's position in this run or a later one, yields
    the identical next batches.

    Args:
        source: The items; those whose reading raises `BrokenImageError` are left out of a pass that
            keeps its remainder. In one of whole batches each is replaced by the next in order, for
            what is at a position may depend on the position alone.
        indices: Which of the items, as if there were no others; all by default.
        transform: From an item and a generator, seeded by position, to the item to batch; see
            `on_image`. Pictures must come out in one size.
        global_batch_size: Items in a batch, over all processes.
        seed: In [0, 2^32); decides the order and every random change.
        shuffle: Draw a new order for each epoch; otherwise keep the order of the source.
        num_epochs: Passes over the source; None goes on for ever.
        num_threads: Threads that read and transform; 0 works in the calling thread.
        prefetch: Items read ahead; 0 reads on demand.
        max_broken_share: Largest accepted share of broken items, see `SkippedImages.accept`.
        drop_remainder: Leave out the last items that fill no batch of all processes. By
            default they are kept in a single pass, as for validation, and left out otherwise.
        skipped: The account to keep of broken items, to read it elsewhere; by default a new
            one, of which only the log tells.

    Returns:
        Dictionaries of stacked arrays with `global_batch_size` rows, or fewer, see
        `BatchDataset.of_rows`; Python integers become int32. With `drop_remainder` each process
        gets the same number of batches.

    Raises:
        UserError: The arguments contradict each other, or the source is empty; while
            iterating: too many items are broken, or their shapes differ.
    """
    indices = range(len(source)) if indices is None else indices
    _check_arguments(len(indices), global_batch_size, seed)
    if num_epochs is not None and num_epochs < 1:
        raise UserError(f"num_epochs: expected at least 1 or None, got {num_epochs}; change it")
    if min(num_threads, prefetch) < 0:
        raise UserError(
            f"num_threads, prefetch: expected at least 0, got {num_threads}, {prefetch}; change it"
        )
    if not 0 <= max_broken_share <= 1:
        raise UserError(
            f"max_broken_share: expected a share in [0, 1], got {max_broken_share}; change it"
        )
    drop = num_epochs != 1 if drop_remainder is None else drop_remainder
    order = _order(indices, seed, shuffle, num_epochs)
    if drop:
        order = _whole_batches(order, global_batch_size)

    def read_at(index: int | None, rng: np.random.Generator) -> Item | Broken:
        assert index is not None  # the order has one at each position
        try:
            item = source[index]
            return _to_arrays(item if transform is None else transform(item, rng))
        except BrokenImageError as error:
            return Broken(index, str(error))

    def read(at: tuple[int, int], rng: np.random.Generator) -> Item | Broken:
        position, index = at
        item = read_at(index, rng)
        if not drop or not isinstance(item, Broken):
            return item
        for later in range(position + 1, position + _MAX_TRIES):
            other = read_at(order[later % len(order)], rng)
            if not isinstance(other, Broken):
                return Broken(item.index, item.reason, other)
        return item

    items = order.map_with_index(lambda position, index: (position, index))
    items = items.random_map(read, seed=seed)
    account = SkippedImages() if skipped is None else skipped
    threads = min(num_threads, prefetch)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)

    def batches(rows: Sequence[int]) -> grain.IterDataset[Batch]:
        local = _rows_of_batches(items, global_batch_size, rows)
        epoch_length = min(len(local), -(-len(indices) * len(rows) // global_batch_size))
        accept = partial(account.accept, epoch_length=epoch_length, max_share=max_broken_share)
        return (
            local.to_iter_dataset(reading)
            .filter(lambda item: accept(item) or drop)
            .map(_replaced)
            .batch(len(rows), drop_remainder=drop, batch_fn=_stack)
        )

    return BatchDataset(global_batch_size, batches, range(global_batch_size))


def _order(
    indices: range, seed: int, shuffle: bool, num_epochs: int | None
) -> grain.MapDataset[int]:
    """The global stream of positions in the source."""
    order = grain.MapDataset.range(indices.start, indices.stop, indices.step)
    if shuffle:
        order = order.shuffle(seed=seed)
    return order.repeat(num_epochs)


def _whole_batches(order: grain.MapDataset[int], global_batch_size: int) -> grain.MapDataset[int]:
    """Cut a finite stream so that every process gets the same number of full batches."""
    batches = len(order) // global_batch_size
    if batches == 0:
        raise UserError(
            f"global_batch_size: expected at most the {len(order)} items that there are, got "
            f"{global_batch_size}; lower it or add data"
        )
    return order[: batches * global_batch_size]


def _rows_of_batches(
    items: grain.MapDataset[Any], global_batch_size: int, rows: Sequence[int]
) -> grain.MapDataset[Any]:
    """Of each batch of a global stream some rows, one batch after the other."""
    if len(rows) == global_batch_size:
        return items
    batches, left = divmod(len(items), global_batch_size)

    def at(place: int) -> Any:
        batch, row = divmod(place, len(rows))
        return items[batch * global_batch_size + rows[row]]

    return grain.MapDataset.range(batches * len(rows) + sum(row < left for row in rows)).map(at)


def _replaced(item: Any) -> Any:
    """An item, or what stands for a broken one."""
    if not isinstance(item, Broken):
        return item
    if item.replacement is None:
        raise UserError(
            f"data: expected a whole item among {_MAX_TRIES} in a row, found none: {item.reason}; "
            "repair or remove the broken ones"
        )
    return item.replacement


def _to_arrays(item: Item) -> Batch:
    return {
        key: np.asarray(value, dtype=np.int32 if isinstance(value, int) else None)
        for key, value in item.items()
    }


def _stack(items: Sequence[Any]) -> Batch:
    """Join items along a new first axis; raises `UserError` when their shapes differ."""
    # Any: to the type checker, Grain's filter lets `Broken` through.
    for key in items[0]:
        shapes = sorted({item[key].shape for item in items})
        if len(shapes) > 1:
            raise UserError(
                f"data: expected every {key!r} of a batch in one shape, got {shapes[0]} and "
                f"{shapes[-1]}; set a transform that crops or resizes"
            )
    return {key: np.stack([item[key] for item in items]) for key in items[0]}


def _check_arguments(length: int, global_batch_size: int, seed: int) -> None:
    if length == 0:
        raise UserError("data: expected at least one item, got an empty source; check the path")
    if global_batch_size < 1:
        raise UserError(f"global_batch_size: expected at least 1, got {global_batch_size}")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: expected 0 <= seed < 2^32, got {seed}; change it")

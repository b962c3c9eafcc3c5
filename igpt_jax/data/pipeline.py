"""From random access to batches: an endless or finite, exactly repeatable Grain pipeline.

    positions -> shuffle -> repeat -> read, transform -> process slice -> threads -> batch

Everything up to the process slice is a function of the seed and the global position alone.
The stream of a run is therefore the same for any number of processes, threads and restarts:
each process takes every `process_count`-th element of one global stream, and the state of an
iterator is a position.
"""

import os
from collections.abc import Callable, Mapping, Sequence
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


@runtime_checkable
class ItemSource(Protocol):
    """Random access to dictionaries of arrays: pictures, token shards, or anything else."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> Item: ...


def on_image(transform: ImageTransform) -> ItemTransform:
    """The transform of an item that changes its picture and leaves the rest."""
    return lambda item, rng: {**item, "image": transform(item["image"], rng)}


def make_dataset(
    source: ItemSource,
    *,
    transform: ItemTransform | None = None,
    global_batch_size: int,
    seed: int,
    shuffle: bool,
    num_epochs: int | None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = _DEFAULT_THREADS,
    prefetch: int = _DEFAULT_PREFETCH,
    max_broken_share: float = 0.01,
    drop_remainder: bool | None = None,
    skipped: SkippedImages | None = None,
) -> grain.IterDataset[Batch]:
    """Batch the items of a source, pictures or tokens: dictionaries of arrays and numbers.

    The iterators have `get_state()` and `set_state(state)`; an iterator of an equal
    dataset, restored in this run or a later one, yields the identical next batches.

    Args:
        source: The items; those whose reading raises `BrokenImageError` are skipped.
        transform: From an item and a generator, seeded by position, to the item to batch; see
            `on_image`. Pictures must come out in one size.
        global_batch_size: Items in a batch, over all processes.
        seed: In [0, 2^32); decides the order and every random change.
        shuffle: Draw a new order for each epoch; otherwise keep the order of the source.
        num_epochs: Passes over the source; None goes on for ever.
        process_index: Which of the processes this is.
        process_count: Number of processes that share each batch.
        num_threads: Threads that read and transform; 0 works in the calling thread.
        prefetch: Items read ahead; 0 reads on demand.
        max_broken_share: Largest accepted share of skipped items, see `SkippedImages.accept`.
        drop_remainder: Leave out the last items that fill no batch of all processes. By
            default they are kept in a single pass, as for validation, and left out otherwise.
        skipped: The account to keep of skipped items, to read it elsewhere; by default a new
            one, of which only the log tells.

    Returns:
        Dictionaries of stacked arrays with `global_batch_size / process_count` rows; Python
        integers become int32. Without broken items and with `drop_remainder` each process
        gets the same number of batches.

    Raises:
        UserError: The arguments contradict each other, or the source is empty; while
            iterating: too many items are broken, or their shapes differ.
    """
    _check_arguments(len(source), global_batch_size, seed, process_index, process_count)
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

    def read(index: int, rng: np.random.Generator) -> Item | Broken:
        try:
            item = source[index]
            return _to_arrays(item if transform is None else transform(item, rng))
        except BrokenImageError as error:
            return Broken(index, str(error))

    drop = num_epochs != 1 if drop_remainder is None else drop_remainder
    order = _order(len(source), seed, shuffle, num_epochs)
    if drop:
        order = _whole_batches(order, global_batch_size)
    local = order.random_map(read, seed=seed)[process_index::process_count]
    account = SkippedImages() if skipped is None else skipped
    epoch_length = min(len(local), -(-len(source) // process_count))

    def accept(item: Item | Broken) -> bool:
        return account.accept(item, epoch_length=epoch_length, max_share=max_broken_share)

    threads = min(num_threads, prefetch)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return (
        local.to_iter_dataset(reading)
        .filter(accept)
        .batch(global_batch_size // process_count, drop_remainder=drop, batch_fn=_stack)
    )


def _order(length: int, seed: int, shuffle: bool, num_epochs: int | None) -> grain.MapDataset[int]:
    """The global stream of positions in the source."""
    order = grain.MapDataset.range(length)
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


def _check_arguments(
    length: int, global_batch_size: int, seed: int, process_index: int, process_count: int
) -> None:
    if length == 0:
        raise UserError("data: expected at least one item, got an empty source; check the path")
    if not 0 <= process_index < process_count:
        raise UserError(
            f"process_index: expected 0..{process_count - 1}, got {process_index}; change it"
        )
    if global_batch_size < 1 or global_batch_size % process_count:
        raise UserError(
            f"global_batch_size: expected a multiple of the {process_count} processes, got "
            f"{global_batch_size}; change it"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: expected 0 <= seed < 2^32, got {seed}; change it")

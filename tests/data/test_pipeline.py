import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.pipeline import make_dataset, on_image
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.sources import FolderConfig, open_source
from igpt_jax.data.transforms import TransformConfig, transform
from igpt_jax.errors import UserError


class Numbered:
    """Pictures filled with their own number; those in `broken` cannot be read."""

    def __init__(self, length: int, broken: frozenset[int] = frozenset()) -> None:
        self.length = length
        self.broken = broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenImageError(f"picture-{index}: cut")
        return {"image": np.full((4, 4, 3), index, np.uint8), "label": int(index)}


def dataset(source, **options):
    given = {
        "transform": None,
        "global_batch_size": 4,
        "seed": 0,
        "shuffle": True,
        "num_epochs": 1,
        "num_threads": 2,
        "prefetch": 8,
    }
    return make_dataset(source, **(given | options))


def labels(batches) -> list[int]:
    return [int(label) for batch in batches for label in batch["label"]]


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return [next(iterator) for _ in range(count)]


def shifted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random change that shows in every pixel."""
    return image + rng.integers(0, 256, image.shape, dtype=np.uint8)


def test_batches_have_the_promised_shapes_and_types():
    batches = list(dataset(Numbered(10)))
    assert [len(batch["image"]) for batch in batches] == [4, 4, 2]
    assert batches[0]["image"].shape == (4, 4, 4, 3)
    assert batches[0]["image"].dtype == np.uint8
    assert batches[0]["label"].dtype == np.int32
    np.testing.assert_array_equal(batches[0]["image"][:, 0, 0, 0], batches[0]["label"])


@pytest.mark.parametrize("length", [1, 7, 64, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_one_epoch_shows_each_element_once(length, shuffle):
    seen = labels(dataset(Numbered(length), shuffle=shuffle))
    assert sorted(seen) == list(range(length))
    if not shuffle:
        assert seen == list(range(length))


def test_the_order_depends_on_the_seed_alone():
    first = labels(dataset(Numbered(50), seed=3))
    assert first == labels(dataset(Numbered(50), seed=3, num_threads=0, global_batch_size=8))
    assert first == labels(dataset(Numbered(50), seed=3, transform=on_image(shifted)))
    assert first != labels(dataset(Numbered(50), seed=4))
    assert first != list(range(50))


def test_each_epoch_has_its_own_order_and_all_elements():
    stream = labels(dataset(Numbered(20), num_epochs=3))
    epochs = [stream[:20], stream[20:40], stream[40:]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_remainders():
    assert len(labels(dataset(Numbered(10), num_epochs=1))) == 10
    assert len(labels(dataset(Numbered(10), num_epochs=1, drop_remainder=True))) == 8
    assert len(labels(dataset(Numbered(10), num_epochs=3))) == 28
    endless = iter(dataset(Numbered(3), num_epochs=None))
    stream = labels(take(endless, 30))
    assert len(stream) == 120
    assert sorted(stream) == sorted(list(range(3)) * 40)


def share(index: int, count: int, size: int) -> range:
    """The rows of a batch that one of several processes reads."""
    return range(index * size // count, (index + 1) * size // count)


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_share_one_global_stream(process_count):
    """Whatever their number, the processes together see the batches of one."""
    broken = frozenset({4, 17, 18})
    options = {"transform": on_image(shifted), "num_epochs": None, "global_batch_size": 8}
    given = dataset(Numbered(50, broken), **options, max_broken_share=0.2)
    whole = take(iter(given), 13)
    parts = [
        take(iter(given.of_rows(share(index, process_count, 8))), 13)
        for index in range(process_count)
    ]
    for step, batch in enumerate(whole):
        for key in ("image", "label"):
            together = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(together, batch[key])


def test_processes_may_share_rows():
    """Where a mesh splits one product over processes, these read the same pictures."""
    given = dataset(Numbered(30), num_epochs=None)
    [whole], [odd] = take(iter(given), 1), take(iter(given.of_rows([1, 3])), 1)
    np.testing.assert_array_equal(odd["label"], whole["label"][[1, 3]])


@pytest.mark.parametrize("length", [9, 16, 21])
def test_process_slices_are_disjoint_and_complete(length):
    one_pass = dataset(Numbered(length))
    parts = [labels(one_pass.of_rows([row])) for row in range(4)]
    assert sorted(label for part in parts for label in part) == list(range(length))
    whole = dataset(Numbered(length), drop_remainder=True)
    assert {len(list(whole.of_rows([row]))) for row in range(4)} == {length // 4}


@pytest.mark.parametrize("broken", [frozenset(), frozenset({3, 4, 30})], ids=["whole", "broken"])
def test_an_epoch_shows_each_picture_once_over_processes_that_come_and_go(broken):
    """Two, one and four processes, each going on from the position that the others told."""
    shown, position = [], 0
    for process_count, num_batches in ((2, 2), (1, 1), (4, 3)):
        given = dataset(
            Numbered(48, broken), num_epochs=None, global_batch_size=8, max_broken_share=0.2
        )
        positions = set()
        for index in range(process_count):
            iterator = iter(given.of_rows(share(index, process_count, 8)))
            iterator.seek(position)
            shown += labels(take(iterator, num_batches))
            positions.add(iterator.position)
        [position] = json.loads(json.dumps(list(positions)))
    assert position == 48
    assert len(shown) == 48
    assert set(shown) == set(range(48)) - broken
    again = [label for label in set(shown) if shown.count(label) > 1]
    assert len(shown) - len(set(shown)) == len(broken)  # each in the place of a broken one
    assert len(again) <= len(broken)


@pytest.mark.parametrize("threads", [(0, 0), (1, 1), (4, 32)])
@pytest.mark.parametrize("stop", [0, 1, 7, 23])
def test_a_restored_iterator_yields_the_identical_next_batches(threads, stop):
    build = functools.partial(
        dataset,
        Numbered(30, frozenset({4, 17})),
        transform=on_image(shifted),
        num_epochs=None,
        max_broken_share=0.2,
        num_threads=threads[0],
        prefetch=threads[1],
    )
    iterator = iter(build())
    take(iterator, stop)
    position = json.loads(json.dumps(iterator.position))
    assert position == 4 * stop
    expected = take(iterator, 12)

    fresh = iter(build())
    fresh.seek(position)
    rewound = iterator
    rewound.seek(position)
    for other in (fresh, rewound):
        for want, got in zip(expected, take(other, 12), strict=True):
            np.testing.assert_array_equal(got["image"], want["image"])
            np.testing.assert_array_equal(got["label"], want["label"])


def test_random_changes_differ_between_pictures_and_epochs():
    zeros = [np.zeros((4, 4, 3), np.uint8)] * 6
    source = [{"image": image, "label": 0} for image in zeros]
    batches = list(dataset(source, transform=on_image(shifted), num_epochs=2, global_batch_size=6))
    views = {image.tobytes() for batch in batches for image in batch["image"]}
    assert len(views) == 12


def test_broken_pictures_are_skipped():
    skipped = SkippedImages()
    source = Numbered(200, frozenset({5, 60}))
    seen = labels(dataset(source, skipped=skipped))
    assert sorted(seen) == sorted(set(range(200)) - {5, 60})
    assert sorted(skipped.reasons) == ["picture-5: cut", "picture-60: cut"]


def test_whole_batches_have_the_next_picture_in_place_of_a_broken_one():
    skipped = SkippedImages()
    given = dataset(
        Numbered(12, frozenset({5, 6})), shuffle=False, drop_remainder=True, skipped=skipped,
        max_broken_share=0.2,
    )  # fmt: skip
    assert labels(given) == [0, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 11]
    assert (skipped.broken, skipped.seen) == (2, 12)


def test_a_transform_may_find_a_picture_broken():
    def refuse_three(image, rng):
        if image[0, 0, 0] == 3:
            raise BrokenImageError("three")
        return image

    seen = labels(dataset(Numbered(10), transform=on_image(refuse_three), max_broken_share=0.1))
    assert sorted(seen) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("num_epochs", [1, None])
@pytest.mark.parametrize("length", [1, 5, 19, 20, 300])
@pytest.mark.parametrize("num_threads", [0, 3])
def test_only_broken_pictures_stop_instead_of_hanging(num_epochs, length, num_threads):
    source = Numbered(length, frozenset(range(length)))
    words = f"got {min(length, 20)} of {min(length, 20)}" if num_epochs else "picture-\\d+: cut"
    with pytest.raises(UserError, match=words):
        next(iter(dataset(source, num_epochs=num_epochs, num_threads=num_threads)))


def test_too_many_broken_pictures_stop_with_their_names():
    source = Numbered(100, frozenset(range(0, 100, 7)))
    with pytest.raises(UserError, match=r"picture-\d+: cut") as raised:
        list(dataset(source))
    assert "\n" not in str(raised.value)


def test_token_shards_pass_through():
    class Tokens:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return {"tokens": np.arange(index, index + 5, dtype=np.uint16), "label": int(index)}

    def roll(item, rng):
        return {**item, "shift": np.float32(rng.random())}

    batches = list(
        make_dataset(
            Tokens(), transform=roll, global_batch_size=3, seed=0, shuffle=False, num_epochs=1
        )
    )
    assert {key: value.dtype.name for key, value in batches[0].items()} == {
        "tokens": "uint16", "label": "int32", "shift": "float32",
    }  # fmt: skip
    np.testing.assert_array_equal(batches[1]["tokens"][0], [3, 4, 5, 6, 7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 0}, "global_batch_size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"num_epochs": 0}, "num_epochs: expected at least 1"),
        ({"max_broken_share": 1.5}, "max_broken_share"),
        ({"num_threads": -1}, "num_threads"),
        ({"num_epochs": 2, "global_batch_size": 64}, "expected at most the 20 items"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(UserError, match=message) as raised:
        dataset(Numbered(10), **options)
    assert "\n" not in str(raised.value)


def test_empty_sources_are_refused():
    with pytest.raises(UserError, match="got an empty source"):
        dataset(Numbered(0))


def test_pictures_of_different_sizes_are_refused():
    source = [{"image": np.zeros((n, 4, 3), np.uint8), "label": 0} for n in (4, 5, 6)]
    with pytest.raises(UserError, match=r"\(4, 4, 3\) and \(6, 4, 3\); set a transform"):
        list(dataset(source))


def test_cifar10_from_the_archive():
    if "IGPT_DATA" not in os.environ:
        pytest.skip("needs cifar10-train.zip in the folder that IGPT_DATA names")
    if not (Path(os.environ["IGPT_DATA"]) / "cifar10-train.zip").exists():
        pytest.skip("IGPT_DATA has no cifar10-train.zip")
    source = open_source(FolderConfig("$IGPT_DATA/cifar10-train.zip", 100), "validation")
    config = TransformConfig(image_size=24, crop="random", flip=True)
    batches = list(
        dataset(
            source, transform=on_image(functools.partial(transform, config)), global_batch_size=100
        )
    )
    assert len(batches) == 10
    assert {batch["image"].shape for batch in batches} == {(100, 24, 24, 3)}
    assert np.bincount(labels(batches)).tolist() == [100] * 10

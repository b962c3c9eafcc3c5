"""Parts that are encoded apart are, one behind the other, what one process encodes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpt_jax.data import encode as encoding
from igpt_jax.data.condition_images import GreyConfig
from igpt_jax.data.encode import EncodingConfig, TokenSource, encode_dataset
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.items import WithCaptions, to_views
from igpt_jax.data.pipeline import make_dataset
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.token_parts import (
    encode_part,
    first_with_rows,
    header_of,
    part_of_text,
    part_range,
    write_check,
)
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.errors import UserError

HEADER = {"vocab_size": 256}
SIZE = 8


class Pictures:
    """Noise of 8 pixels with captions and attributes, some of it broken."""

    def __init__(self, length, broken=()):
        self.length, self.broken = length, set(broken)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenImageError(f"picture-{index}: cut")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        return {"image": image, "label": index, "attributes": np.array([index % 3, -1], np.int32)}

    def captions(self, index):
        return [f"picture {index}", f"图 {index}"]


def encode(images):
    """Four pixels of each picture, which tell it from all others."""
    return images.reshape(len(images), -1)[:, ::50].astype(np.int32)


def decode(tokens):
    return np.zeros((len(tokens), SIZE, SIZE, 3), np.uint8)


def batches_of(source, config, indices, skipped, max_broken_share=1.0):
    if not indices:
        return ()
    return make_dataset(
        WithCaptions(source),
        indices=indices,
        transform=to_views(config, TransformConfig(image_size=SIZE), GreyConfig()),
        global_batch_size=config.batch_size,
        seed=0, shuffle=False, num_epochs=1, num_threads=2,
        max_broken_share=max_broken_share, skipped=skipped,
    )  # fmt: skip


def by_one(directory, source, config):
    skipped = SkippedImages()
    encode_dataset(
        batches_of(source, config, range(len(source)), skipped), encode, decode, directory,
        config=config, header=HEADER, total=len(source), skipped=skipped,
    )  # fmt: skip
    return TokenSource(directory, expected=HEADER, encode=encode)


def in_parts(directory, source, config, count):
    """What several processes do, one after the other, the last one first."""
    directory.mkdir()
    written = {}
    for index in reversed(range(count)):
        indices, skipped = part_range(len(source), config.batch_size, index, count), SkippedImages()
        written[index] = encode_part(
            batches_of(source, config, indices, skipped), encode, directory,
            vocab_size=256, shard_size=config.shard_size, skipped=skipped, prefix=f"{index:05d}-",
        )  # fmt: skip
    parts = [part_of_text(written[index][0].as_text()) for index in range(count)]
    write_check(directory, written[first_with_rows(parts)][1], decode)
    header = header_of(parts, HEADER, config.views)
    (directory / "header.json").write_text(json.dumps(header))
    return TokenSource(directory, expected=HEADER, encode=encode)


def rows(source):
    """Each example as bytes and texts."""
    return [
        tuple(
            (name, value if isinstance(value, str) else np.asarray(value).tobytes())
            for name, value in source[index].items()
        )
        for index in range(len(source))
    ]


@given(st.integers(0, 200), st.integers(1, 30), st.integers(1, 5))
def test_parts_have_each_index_once_and_begin_with_a_batch(length, batch_size, count):
    parts = [part_range(length, batch_size, part, count) for part in range(count)]
    assert [index for part in parts for index in part] == list(range(length))
    assert all(part.start % batch_size == 0 for part in parts if part)
    assert bool(parts[0]) == (length > 0)  # its pictures are kept to check with
    batches = [-(-len(part) // batch_size) for part in parts]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("views", ["one", "mirrored", "ten_crop"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_behind_each_other_have_the_rows_of_one(count, views, tmp_path):
    """Of 22 pictures in batches of 4, the last one smaller; with all columns."""
    config = EncodingConfig(views=views, batch_size=4, shard_size=7)
    one = by_one(tmp_path / "one", Pictures(22), config)
    several = in_parts(tmp_path / "several", Pictures(22), config, count)
    # Views of a batch lie behind each other: a batch is the smallest piece that can be moved.
    assert rows(several) == rows(one)
    assert set(one[0]) == {"tokens", "label", "cond_tokens", "attributes", "captions"}
    assert several.captions(0) == ("picture 0", "图 0")
    different = {"shards"}
    for name in one.header.keys() - different:
        assert several.header[name] == one.header[name], name
    for name in ("check.npz", "check.png"):
        written = [(tmp_path / place / name).read_bytes() for place in ("one", "several")]
        assert written[0] == written[1]


def test_more_parts_than_batches(tmp_path):
    config = EncodingConfig(batch_size=8, shard_size=7)
    one = by_one(tmp_path / "one", Pictures(10), config)
    assert rows(in_parts(tmp_path / "several", Pictures(10), config, 5)) == rows(one)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_readable_picture_is_there_once(count, tmp_path):
    """Also where all of the first part are broken: the next has the pictures to check with."""
    source = Pictures(40, broken=[*range(20), 27, 39])
    config = EncodingConfig(batch_size=4, shard_size=7, views="mirrored")
    one = by_one(tmp_path / "one", source, config)
    several = in_parts(tmp_path / "several", source, config, count)
    assert sorted(rows(several)) == sorted(rows(one))
    assert len({int(several[index]["label"]) for index in range(len(several))}) == 18
    assert several.header["num_skipped"] == one.header["num_skipped"] == 22


def test_no_picture_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected at least one picture to encode, found none"):
        by_one(tmp_path / "one", Pictures(6, broken=range(6)), EncodingConfig())
    assert not (tmp_path / "one").exists()


def test_one_process_has_the_names_that_it_always_had(tmp_path):
    by_one(tmp_path / "one", Pictures(10), EncodingConfig(batch_size=4, shard_size=7))
    names = {path.name for path in (tmp_path / "one").iterdir()}
    columns = ("tokens", "labels", "cond_tokens", "attributes", "captions", "captions-starts")
    shards = {f"{column}-0000{shard}.npy" for column in columns for shard in (0, 1)}
    assert names == shards | {"header.json", "check.npz", "check.png"}


def told(count, skipped, shards=()):
    """What another process tells of its part, which has so many broken pictures."""
    reasons = [f"other-{index}: cut" for index in range(skipped)]
    part = {"columns": [], "shards": shards, "seen": count, "broken": skipped, "reasons": reasons}
    return json.dumps(part)


@pytest.mark.parametrize(("others", "is_refused"), [(0, False), (1, False), (2, True)])
def test_the_share_of_broken_pictures_is_of_all_processes(
    others, is_refused, tmp_path, monkeypatch
):
    """Two broken ones of 20, of which one lies here: 10 % of this part, and of all."""
    monkeypatch.setattr(encoding, "texts_of_all", lambda text: [text, told(10, others)])
    source, config = Pictures(10, broken=[3]), EncodingConfig(batch_size=5)
    skipped = SkippedImages(share=0.5)

    def write():
        encode_dataset(
            batches_of(source, config, range(10), skipped, max_broken_share=0.1),
            encode, decode, tmp_path / "out",
            config=config, header=HEADER, total=10, skipped=skipped, max_broken_share=0.1,
        )  # fmt: skip

    if is_refused:
        with pytest.raises(UserError, match=r"at most 10\.00% broken .*, got 3 of 20: picture-3"):
            write()
        assert not (tmp_path / "out").exists()
    else:
        write()
        header = TokenSource(tmp_path / "out", expected=HEADER).header
        assert header["num_skipped"] == 1 + others


def test_a_part_that_is_not_there_leaves_no_folder(tmp_path, monkeypatch):
    """As on two disks that were taken for one."""
    other = told(10, 0, [{"name": "00001-00000", "count": 10}])
    monkeypatch.setattr(encoding, "texts_of_all", lambda text: [text, other])
    with pytest.raises(UserError, match=r"tokens-00001-00000\.npy: expected an array, got none"):
        by_one(tmp_path / "out", Pictures(10), EncodingConfig(batch_size=5))
    assert not (tmp_path / "out").exists()

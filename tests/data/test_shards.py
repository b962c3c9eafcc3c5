import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpt_jax.data.encode import TokenSource
from igpt_jax.data.shards import ShardReader, ShardWriter
from igpt_jax.errors import UserError

COLUMNS = ("tokens", "attributes", "captions")


def rows_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(0, 1 << 16, (count, 5)).astype(np.uint16),
        "attributes": rng.integers(-1, 9, (count, 2)).astype(np.int32),
        "captions": np.array([f"{i} 张 {'é' * (i % 4)}" for i in range(count)]),
    }


def write(directory, rows, sizes, shard_size):
    writer, start = ShardWriter(directory, shard_size), 0
    for size in sizes:
        writer.add({name: values[start : start + size] for name, values in rows.items()})
        start += size
    return writer.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), max_size=6), st.integers(1, 9), st.data())
def test_what_is_written_is_read(sizes, shard_size, data):
    count = sum(sizes)
    rows = rows_of(count, seed=shard_size)
    texts = data.draw(st.lists(st.text(max_size=6), min_size=count, max_size=count))
    rows["captions"] = np.array(texts, dtype=object)
    with tempfile.TemporaryDirectory() as name:
        shards = write(Path(name), rows, sizes, shard_size)
        whole, rest = divmod(count, shard_size)
        assert [shard["count"] for shard in shards] == [shard_size] * whole + [rest] * bool(rest)
        reader = ShardReader(Path(name), json.loads(json.dumps(shards)), COLUMNS)
        assert len(reader) == count
        for i in range(count):
            row = reader.row(i)
            np.testing.assert_array_equal(row["tokens"], rows["tokens"][i])
            np.testing.assert_array_equal(row["attributes"], rows["attributes"][i])
            assert row["tokens"].dtype == np.uint16
            assert row["captions"] == texts[i]
        for index in (-1, count):
            with pytest.raises(IndexError, match="expected an index"):
                reader.row(index)


def test_texts_of_many_widths_are_whole(tmp_path):
    """NumPy's own text arrays are as wide as their widest text, another one each time."""
    texts = ["", "a", "short", "a very long one, in many words", "五张"]
    writer = ShardWriter(tmp_path, 3)
    for text in texts:
        writer.add({"captions": np.array([text])})
    reader = ShardReader(tmp_path, writer.close(), ["captions"])
    assert [reader.row(i)["captions"] for i in range(5)] == texts


@pytest.fixture
def directory(tmp_path):
    write(tmp_path, rows_of(7), [7], 4)
    return tmp_path


SHARDS = [{"name": "00000", "count": 4}, {"name": "00001", "count": 3}]


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no array": lambda path: path.write_bytes(b"tokens" * 99),
    "header cut": lambda path: cut(path, 70),
    "rows cut": lambda path: cut(path, path.stat().st_size - 1),
    "pickled": lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
    "a row less": lambda path: np.save(path, np.load(path)[:-1]),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("column", ["tokens", "captions", "captions-starts"])
def test_damaged_files_are_named_in_one_line(column, damage, directory):
    path = directory / f"{column}-00001.npy"
    DAMAGE[damage](path)
    with pytest.raises(UserError, match=r"-00001\.npy: expected .*encode again") as refused:
        ShardReader(directory, SHARDS, COLUMNS)
    assert "\n" not in str(refused.value)


def test_a_row_more_than_the_header_says_is_refused(directory):
    with pytest.raises(UserError, match=r"00001\.npy: expected 2 rows, got 3; encode again"):
        ShardReader(directory, [SHARDS[0], {"name": "00001", "count": 2}], COLUMNS)


def source_of(directory, rows, **header):
    shards = write(directory, rows, [7], 4)
    written = {"format": 1, "vocab_size": 1 << 16, "shards": shards, **header}
    (directory / "header.json").write_text(json.dumps(written))
    return TokenSource(directory, expected={"vocab_size": 1 << 16})


def test_headers_without_columns_are_of_tokens_and_labels(tmp_path):
    rows = {"tokens": rows_of(7)["tokens"], "labels": np.arange(7, dtype=np.int32)}
    source = source_of(tmp_path, rows)
    assert len(source) == 7
    for i in range(7):
        assert set(source[i]) == {"tokens", "label"}
        assert source[i]["label"] == i
        np.testing.assert_array_equal(source[i]["tokens"], rows["tokens"][i])
        assert source[i]["tokens"].dtype == np.int32
    assert source.captions(6) == ()
    counts = np.bincount(rows["tokens"].ravel(), minlength=1 << 16)
    np.testing.assert_allclose(source.marginal(), counts / counts.sum())


def test_headers_with_columns_tell_what_else_there_is(tmp_path):
    rows = rows_of(7) | {"labels": np.arange(7, dtype=np.int32)}
    rows["cond_tokens"] = rows["tokens"][::-1]
    texts = [[f"card {i}", f"第 {i} 张牌"] for i in range(7)]
    rows["captions"] = np.array([json.dumps(each, ensure_ascii=False) for each in texts])
    source = source_of(tmp_path, rows, columns=list(rows))
    for i in range(7):
        assert set(source[i]) == {"tokens", "label", "cond_tokens", "attributes", "captions"}
        assert source.captions(i) == tuple(texts[i])
        assert json.loads(source[i]["captions"]) == texts[i]
        for name in ("cond_tokens", "attributes"):
            np.testing.assert_array_equal(source[i][name], rows[name][i])
            assert source[i][name].dtype == np.int32

import struct

import flax.serialization
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from damage import errors_of_damage

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import DTYPES
from igpt_jax.interop.msgpack_file import open_msgpack
from igpt_jax.interop.weights import open_weights

VARIABLES = {
    "params": {
        "Dense_0": {
            "kernel": np.arange(600, dtype=np.float32).reshape(20, 30),
            "bias": np.array([1.5], np.float16),
        },
        "half": np.array([[1.0, -2.5]], DTYPES["bfloat16"]),
        "flags": np.array([True, False]),
        "scalar": np.array(2, np.int64),
        "none": np.zeros((0, 4), np.uint8),
        "long": np.arange(70_000, dtype=np.int32),
    },
    "step": 7,
    "name": "a" * 300,
    "other": {"list": [1, -1, 2.5, None, True, b"b" * 300, 2**40, -(2**40)], "number": 1 + 2j},
    "count": np.float32(3),
    "many": {str(index): np.array(index) for index in range(20)},
}


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            yield prefix + name, value


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize(VARIABLES))
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype == found.specs[name].dtype
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_arrays_of_flax(path):
    assert_same(open_msgpack(path), dict(flat(VARIABLES)))
    restored = flax.serialization.msgpack_restore(path.read_bytes())
    assert_same(open_msgpack(path), dict(flat(restored)))


def test_arrays_of_jax(tmp_path):
    variables = {"params": {"w": jnp.arange(3.0)}}
    path = tmp_path / "maskgit_checkpoint"  # as MaskGIT names its files, without suffix
    path.write_bytes(flax.serialization.to_bytes(variables))
    assert_same(open_weights(path), {"params/w": np.arange(3, dtype=np.float32)})


@pytest.mark.parametrize("chunk", [4, 40, 1000])
def test_arrays_in_parts(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk)
    arrays = {
        "w": np.arange(60, dtype=np.float32).reshape(4, 3, 5),
        "v": np.arange(50, dtype=np.int16),
    }
    path = tmp_path / "a.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize({"params": dict(arrays)}))
    expected = {f"params/{name}": array for name, array in arrays.items()}
    found = open_msgpack(path)
    assert_same(found, expected)
    for name, array in expected.items():
        for rows in (slice(1, 3), slice(2, None), slice(3, 3)):
            np.testing.assert_array_equal(found.read(name, (rows,)), array[rows], strict=True)


def test_truncated_files(path):
    whole = path.read_bytes()
    for end in [*range(0, 4000, 61), *range(len(whole) - 1500, len(whole), 61)]:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"expected a whole file of arrays.*download it again"):
            open_msgpack(path)
    path.write_bytes(whole + b"\x01")
    with pytest.raises(UserError, match=r"bytes in place of"):
        open_msgpack(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.msgpack"
    small = {"params": {"w": VARIABLES["params"]["half"]}, "step": 7, "other": VARIABLES["other"]}
    whole = flax.serialization.msgpack_serialize(small)
    assert len(errors_of_damage(path, whole, lambda: dict(open_msgpack(path)))) > 30


def array_of(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    "contents",
    [
        msgpack.packb({"w": array_of((3,), "float32", bytes(8))}),
        msgpack.packb({"w": array_of((-2,), "float32", bytes(8))}),
        msgpack.packb({"w": array_of((1,), "object", bytes(8))}),
        msgpack.packb({"w": array_of((2**40,), "float32", bytes(8))}),
        msgpack.packb({"w": msgpack.ExtType(1, b"")}),
        msgpack.packb({3: array_of((2,), "float32", bytes(8))}),
        msgpack.packb([1]),
        msgpack.packb({"__msgpack_chunked_array__": True}),
        msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {}}),
        b"\xdf" + struct.pack(">I", 2**32 - 1),
        b"\x81\xa1a\xdd" + struct.pack(">I", 2**32 - 1),
        b"\x81\xa1a" * 5000 + b"\x01",
        b"",
    ],
)
def test_files_of_something_else(tmp_path, contents):
    path = tmp_path / "a.msgpack"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"expected a whole file of arrays"):
        open_msgpack(path)

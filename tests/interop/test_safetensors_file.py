import json
import struct

import jax
import numpy as np
import pytest
from damage import errors_of_damage
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import DTYPES
from igpt_jax.interop.safetensors_file import open_safetensors, write_safetensors

ARRAYS = {
    "flag": np.array([True, False, True]),
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.array([[1.0, -2.5, 3e38]], DTYPES["bfloat16"]),
    "step": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float16),
    "bytes": np.arange(5, dtype=np.uint8),
    "complex": np.array([1 + 2j], np.complex64),
    "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
}


def metadata_of(path):
    with safe_open(path, "np") as file:
        return file.metadata() or {}


def specs_of(arrays):
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)
        assert found[name].dtype == array.dtype, name


@pytest.mark.parametrize("order", [list(ARRAYS), list(reversed(ARRAYS))])
def test_the_library_reads_what_is_written(tmp_path, order):
    path = tmp_path / "a.safetensors"
    pairs = ((name, ARRAYS[name]) for name in order)
    write_safetensors(path, specs_of(ARRAYS), pairs, {"format": "pt", "title": "Größe"})
    assert_same(load_file(path), ARRAYS)
    with safe_open(path, "np") as opened:
        assert opened.metadata() == {"format": "pt", "title": "Größe"}
        np.testing.assert_array_equal(opened.get_slice("w")[1:, :2], ARRAYS["w"][1:, :2])
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, specs_of(ARRAYS), ARRAYS.items(), {"a": "b"})
    arrays = open_safetensors(path)
    assert arrays.specs == specs_of(ARRAYS)
    assert_same(arrays, ARRAYS)
    assert metadata_of(path) == {"a": "b"}


def test_elements_are_aligned(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, specs_of(ARRAYS), ARRAYS.items(), {})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        assert entry["data_offsets"][0] % ARRAYS[name].dtype.itemsize == 0, name
    assert metadata_of(path) == {}


def test_what_the_library_writes_is_read(tmp_path):
    contiguous = {name: np.ascontiguousarray(array) for name, array in ARRAYS.items()}
    contiguous["step"] = ARRAYS["step"]
    save_file(contiguous, tmp_path / "a.safetensors", {"format": "np"})
    assert_same(open_safetensors(tmp_path / "a.safetensors"), ARRAYS)
    assert metadata_of(tmp_path / "a.safetensors") == {"format": "np"}


def test_the_empty_file(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {}, [], {})
    assert load_file(tmp_path / "a.safetensors") == {}
    assert len(open_safetensors(tmp_path / "a.safetensors")) == 0


PAIR = {"a": np.zeros(2, np.float32), "b": np.ones(3, np.int32)}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", PAIR["a"])], "expected the array b, got none"),
        ([*PAIR.items(), ("a", PAIR["a"])], "expected one array a, got two"),
        ([*PAIR.items(), ("c", PAIR["a"])], "expected no array c, got one"),
        ([("a", PAIR["a"][:1])], r"expected a of float32\[2\], got float32\[1\]"),
        ([("b", PAIR["a"])], r"expected b of int32\[3\], got float32\[2\]"),
        ([("a", PAIR["a"].astype(">f4"))], r"expected a of float32\[2\], got >f4\[2\]"),
    ],
)
def test_arrays_that_are_not_as_said(tmp_path, pairs, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(UserError, match=message):
        write_safetensors(path, specs_of(PAIR), pairs, {})
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_failure(tmp_path):
    def pairs():
        yield "a", PAIR["a"]
        assert len(list(tmp_path.iterdir())) == 1  # the temporary file
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "a.safetensors", specs_of(PAIR), pairs(), {})
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("none", "file"):
        with pytest.raises(UserError, match=r"expected to write it, got .*; make room or choose"):
            write_safetensors(tmp_path / folder / "a", specs_of(PAIR), PAIR.items(), {})


@pytest.mark.parametrize("name", ["__metadata__", "text"])
def test_names_and_dtypes_that_the_format_lacks(tmp_path, name):
    dtype = np.dtype("complex128" if name == "text" else "float32")
    specs = {name: jax.ShapeDtypeStruct((1,), dtype)}
    with pytest.raises(UserError, match=rf"expected no array {name} of {dtype}, got one"):
        write_safetensors(tmp_path / "a", specs, [(name, np.zeros(1, dtype))], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "index",
    [
        (slice(1, 2),),
        (slice(None), slice(1, 3)),
        (slice(0, 3, 2),),
        (slice(2, 1),),
        (slice(-1, 9),),
    ],
)
def test_parts(tmp_path, index):
    save_file({"w": ARRAYS["w"]}, tmp_path / "a.safetensors")
    part = open_safetensors(tmp_path / "a.safetensors").read("w", index)
    np.testing.assert_array_equal(part, ARRAYS["w"][index], strict=True)


def test_truncated_files(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, specs_of(ARRAYS), ARRAYS.items(), {})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"expected a whole file of arrays.*download it again"):
            open_safetensors(path)
    path.write_bytes(whole + b"\x00")
    with pytest.raises(UserError, match=r"bytes in place of"):
        open_safetensors(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, specs_of(ARRAYS), ARRAYS.items(), {})
    messages = errors_of_damage(path, path.read_bytes(), lambda: dict(open_safetensors(path)))
    assert len(messages) > 100


W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"w": W | {"data_offsets": [4, 12]}},  # a hole
        {"w": W | {"shape": [3]}},
        {"w": W | {"shape": [-2]}, "v": W},
        {"w": W | {"dtype": "F4"}},
        {"w": W, "v": W},  # the same bytes
        {"w": W | {"shape": [2.0]}},
        {"w": W | {"data_offsets": [0]}},
        {"w": 1},
        [],
        f'{{"w": {json.dumps(W)}, "w": {json.dumps(W)}}}',
    ],
)
def test_headers_that_do_not_add_up(tmp_path, header):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(UserError, match=r"expected a whole file of arrays"):
        dict(open_safetensors(path))


def test_a_header_that_claims_everything(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(UserError, match=r"a header of 9223372036854775808 bytes in a file of 10"):
        open_safetensors(path)

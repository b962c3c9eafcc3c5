import json
import shutil
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from igpt_jax.errors import UserError
from igpt_jax.interop.weights import open_weights, read_weights, resolve_weights, take_weight

DATA = Path(__file__).parent / "data"
ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([1.5, -2.0], np.float16),
    "step": np.array(7, np.int64),
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, strict=True)


class Explosive:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".npz"])
def test_arrays_are_read_back(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **ARRAYS)
    else:
        save_file(ARRAYS, path)
    assert_same(read_weights(path), ARRAYS)
    assert_same(read_weights(str(path)), ARRAYS)


def test_bfloat16_stays_bfloat16(tmp_path):
    arrays = {"w": np.array([[1.0, -2.5, 3e38]], jnp.bfloat16)}
    save_file(arrays, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"), arrays)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("keep", [0, 5, -3])
def test_a_truncated_file_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"weights{suffix}"
    save_file(ARRAYS, path) if suffix == ".safetensors" else np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        UserError, match=rf"{path}: expected a whole file of arrays, got .*; download it"
    ):
        read_weights(path)


def test_damaged_contents_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, w=np.arange(1000.0))
    damaged = bytearray(path.read_bytes())
    damaged[100:140] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"download it again"):
        read_weights(path)


def test_pickled_objects_are_not_run(tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "weights.npz"
    np.savez(path, w=np.array([Explosive(trace)], object))
    with pytest.raises(UserError, match=r"got ValueError \(w.npy holds pickled objects\)"):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.gguf", "weights"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"ends in .safetensors, .npz.*, got (.gguf|no suffix); "):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "none"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}: expected a file, found none"):
        read_weights(tmp_path / name)


def test_local_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPT_TEST_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert resolve_weights("$IGPT_TEST_WEIGHTS/a.npz") == tmp_path / "a.npz"
    assert resolve_weights("~/a.npz") == Path("/home/somebody/a.npz")
    assert resolve_weights(tmp_path) == tmp_path


def test_taking_one_weight():
    np.testing.assert_array_equal(
        take_weight(ARRAYS, "a.weight", (2, 3), model="A"), ARRAYS["a.weight"]
    )
    with pytest.raises(UserError, match=r"weights of A: expected an entry b, got 3 entries"):
        take_weight(ARRAYS, "b", (2, 3), model="A")
    with pytest.raises(UserError, match=r"expected a.weight of shape \[3, 2\], got \[2, 3\]"):
        take_weight(ARRAYS, "a.weight", [3, 2], model="A")


@pytest.mark.parametrize("compressed", [True, False])
def test_archives_of_numpy(tmp_path, compressed):
    arrays = ARRAYS | {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "half": np.array([[1.0, -2.5]], jnp.bfloat16),
        "big_endian": np.arange(3, dtype=">i4"),
        "none": np.zeros((0, 2), np.float32),
        "folder/name": np.array([True]),
    }
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "a.npz", title=np.array("text"), **arrays)
    found = open_weights(tmp_path / "a.npz")
    assert found.specs["half"].dtype == jnp.bfloat16
    arrays["big_endian"] = np.arange(3, dtype=np.int32)
    assert_same(found, arrays)
    np.testing.assert_array_equal(found.read("fortran", (slice(1, 2),)), [[3.0, 4.0, 5.0]])


def npy(shape, data):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("w.npy", npy((2**40,), b"")),  # a small file that claims terabytes
        ("w.npy", npy((3,), bytes(8))),
        ("w.npy", npy((-2,), bytes(8))),
        ("w.txt", b"text"),
        ("w.npy", b""),
    ],
)
def test_archives_of_something_else(tmp_path, name, contents):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, contents)
    with pytest.raises(UserError, match=r"expected a whole file of arrays"):
        open_weights(tmp_path / "a.npz")


def test_truncated_and_damaged_archives(tmp_path):
    path, draws = tmp_path / "a.npz", np.random.default_rng(0)
    np.savez_compressed(path, **ARRAYS)
    whole, messages = path.read_bytes(), []
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"expected a whole file of arrays"):
            open_weights(path)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draws.integers(len(whole))] = draws.integers(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not any("\n" in message or "TypeCheckError" in message for message in messages)


@pytest.fixture
def shards(tmp_path):
    """The index of a checkpoint in two files, as the Hub has them."""
    weight_map = {}
    for number, names in enumerate([["a.weight", "step"], ["a.bias"]]):
        shard = f"model-0000{number + 1}-of-00002.safetensors"
        extra = {"unlisted": np.zeros(2)} if number else {}
        save_file({name: ARRAYS[name] for name in names} | extra, tmp_path / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map}))
    return index


def test_a_checkpoint_in_several_files(shards):
    assert_same(read_weights(shards), ARRAYS)
    assert_same(read_weights(shards.parent), ARRAYS)


def test_a_checkpoint_of_torch_in_several_files(tmp_path):
    shutil.copy(DATA / "llamagen.pt", tmp_path / "1.bin")
    shutil.copy(DATA / "lightning.ckpt", tmp_path / "2.ckpt")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "1.bin", "bias": "2.ckpt"}}))
    expected = {"w": [[0, 1], [2, 3]], "bias": [5, 6, 7]}
    assert_same(read_weights(index), {k: np.array(v, np.float32) for k, v in expected.items()})


def test_shards_that_are_missing(shards):
    shard = shards.with_name("model-00002-of-00002.safetensors")
    save_file({"other": np.zeros(2)}, shard)
    with pytest.raises(
        UserError, match=r"expected a.bias in model-00002-of-00002.safetensors, got"
    ):
        open_weights(shards)
    shard.unlink()
    with pytest.raises(UserError, match=rf"expected {shard.name} beside it, found none; downl"):
        open_weights(shards)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "b.index.json", "", 3, None])
def test_an_index_names_files_beside_it(tmp_path, name):
    index = tmp_path / "b.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(UserError, match=r"expected names of files, got"):
        open_weights(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / "b.index.json").write_text(text)
    with pytest.raises(
        UserError, match=r"b.index.json: expected (JSON|a JSON|a weight_map).*; dow"
    ):
        open_weights(tmp_path / "b.index.json")


def test_directories(tmp_path):
    with pytest.raises(UserError, match=r"expected a directory with .*got none of them"):
        open_weights(tmp_path)
    shutil.copy(DATA / "views.pth", tmp_path / "training_args.bin")
    shutil.copy(DATA / "llamagen.pt", tmp_path / "pytorch_model.bin")
    assert list(open_weights(tmp_path)) == ["w"]
    assert open_weights(tmp_path, "ema")["w"][0, 0] == 10
    save_file(ARRAYS, tmp_path / "a.safetensors")
    assert_same(read_weights(tmp_path), ARRAYS)
    save_file(ARRAYS, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"expected one file of weights, got a.safetensors, b.saf"):
        open_weights(tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".PTH", ".bin", ".ckpt"])
def test_files_of_torch(tmp_path, suffix):
    shutil.copy(DATA / "llamagen.pt", tmp_path / f"a{suffix}")
    for entry, first in ((None, 0), ("ema", 10)):
        assert read_weights(tmp_path / f"a{suffix}", entry)["w"][0, 0] == first


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.msgpack"])
def test_an_entry_of_a_file_without_entries(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"expected no entry for a file of one mapping, got 'ema'"):
        open_weights(tmp_path / name, "ema")

import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from igpt_jax.errors import UserError
from igpt_jax.interop.weights import read_weights, resolve_weights, take_weight

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
    with pytest.raises(UserError, match=rf"{path}: expected a {suffix} file.*; download it again"):
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
    with pytest.raises(UserError, match=r"without pickled objects, got ValueError"):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.gguf", "weights"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"ends in .safetensors, .npz.*, got (.gguf|no suffix); "):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "folder.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match=rf"{name}: expected a file, found none"):
        read_weights(tmp_path / name)


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Explosive(tmp_path / "trace")))
    with pytest.raises(UserError, match=r"pip install torch or convert the file to .safetensors"):
        read_weights(path)
    assert not (tmp_path / "trace").exists()


class FakeTensor:
    def __init__(self, array, dtype=None):
        self.array, self.dtype = array, dtype

    def detach(self):
        return self

    def view(self, dtype):
        return FakeTensor(self.array.view(dtype))

    def numpy(self):
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.fixture
def load_with_fake_torch(tmp_path, monkeypatch):
    """A function that reads a file as which a stand-in for PyTorch returns what it is given."""
    path = tmp_path / "model.ckpt"
    path.touch()

    def read(loaded):
        def load(file, *, map_location, weights_only):
            assert (file, map_location, weights_only) == (path, "cpu", True)
            return loaded

        fake = SimpleNamespace(load=load, Tensor=FakeTensor, bfloat16="bfloat16", int16=np.int16)
        monkeypatch.setitem(sys.modules, "torch", fake)
        return read_weights(path)

    return read


TENSORS = {name: FakeTensor(array) for name, array in ARRAYS.items()}


@pytest.mark.parametrize(
    "loaded",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": TENSORS, "optimizer": {"state": {}}, "steps": 10},
    ],
)
def test_a_torch_file_is_unwrapped(load_with_fake_torch, loaded):
    assert_same(load_with_fake_torch(loaded), ARRAYS)


def test_bfloat16_of_a_torch_file(load_with_fake_torch):
    array = np.array([1.0, -2.5], jnp.bfloat16)
    assert_same(load_with_fake_torch({"w": FakeTensor(array, "bfloat16")}), {"w": array})


@pytest.mark.parametrize(
    ("loaded", "got"),
    [
        ({"model": TENSORS, "ema": TENSORS}, "entries model, ema"),
        ({"weights": TENSORS}, "entries weights"),
        ({**TENSORS, "epoch": 3}, "entries a.weight, a.bias, step, epoch"),
        ({"state_dict": {}}, "entries state_dict"),
        ([1, 2], "list"),
    ],
)
def test_a_torch_file_of_something_else(load_with_fake_torch, loaded, got):
    with pytest.raises(UserError, match=rf"one mapping of tensors.*, got {got}; save"):
        load_with_fake_torch(loaded)


def test_torch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    tensors["half"] = torch.nn.Parameter(torch.tensor([1.0, -2.5], dtype=torch.bfloat16))
    expected = ARRAYS | {"half": np.array([1.0, -2.5], jnp.bfloat16)}
    path = tmp_path / "model.pth"
    for contents in (tensors, {"state_dict": tensors, "epoch": 3}):
        torch.save(contents, path)
        assert_same(read_weights(path), expected)
    for damaged in (path.read_bytes()[:-100], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"expected a .pth file of arrays.*download it again"):
            read_weights(path)
    torch.save({"model": tensors, "args": Explosive(tmp_path / "trace")}, path)
    with pytest.raises(UserError, match=r"without pickled objects, got UnpicklingError"):
        read_weights(path)
    assert not (tmp_path / "trace").exists()


def test_local_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPT_TEST_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert resolve_weights("$IGPT_TEST_WEIGHTS/a.npz") == tmp_path / "a.npz"
    assert resolve_weights("~/a.npz") == Path("/home/somebody/a.npz")
    assert resolve_weights(tmp_path) == tmp_path


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the client of the Hub."""
    module = ModuleType("huggingface_hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_hub_sources(hub, tmp_path):
    hub.hf_hub_download = lambda *names: str(tmp_path.joinpath(*names))
    found = resolve_weights("hub:org/name.v1/folder/model.safetensors")
    assert found == tmp_path / "org/name.v1/folder/model.safetensors"


@pytest.mark.parametrize("source", ["hub:", "hub:model.npz", "hub:org/name", "hub:org/name/"])
def test_incomplete_hub_sources(hub, source):
    with pytest.raises(UserError, match=f"expected hub:ORG/NAME/FILE, got '{source}'"):
        resolve_weights(source)


def test_the_hub_fails(hub):
    def hf_hub_download(repo, file):
        raise FileNotFoundError("404 Client Error.\n\nEntry Not Found for url: somewhere")

    hub.hf_hub_download = hf_hub_download
    with pytest.raises(UserError) as caught:
        resolve_weights("hub:org/name/model.pt")
    assert "hub:org/name/model.pt" in str(caught.value)
    assert "got FileNotFoundError: 404 Client Error.; check" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_hub_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'igpt_jax\[hub\]' or give the path"):
        resolve_weights("hub:org/name/model.pt")


def test_taking_one_weight():
    np.testing.assert_array_equal(
        take_weight(ARRAYS, "a.weight", (2, 3), model="A"), ARRAYS["a.weight"]
    )
    with pytest.raises(UserError, match=r"weights of A: expected an entry b, got 3 entries"):
        take_weight(ARRAYS, "b", (2, 3), model="A")
    with pytest.raises(UserError, match=r"expected a.weight of shape \[3, 2\], got \[2, 3\]"):
        take_weight(ARRAYS, "a.weight", [3, 2], model="A")

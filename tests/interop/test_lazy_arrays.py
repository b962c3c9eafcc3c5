import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import save_file

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import LazyArrays, StoredArray, place, read_around, stored_region
from igpt_jax.interop.safetensors_file import open_safetensors, write_safetensors

W = np.arange(40, dtype=np.float32).reshape(8, 5)


class Recorder:
    """Arrays that note which rows are read."""

    def __init__(self, **arrays):
        self.read = []
        stored = {name: self.stored(name, array) for name, array in arrays.items()}
        self.arrays = LazyArrays(stored)

    def stored(self, name, array):
        def read_rows(start, stop):
            self.read.append((name, start, stop))
            return array[start:stop].copy() if array.ndim else array.copy()

        spec = jax.ShapeDtypeStruct(array.shape, array.dtype)
        return StoredArray(Path("a.file"), spec, read_rows)


def test_nothing_is_read_before_it_is_asked_for():
    recorder = Recorder(w=W, step=np.array(3))
    arrays = recorder.arrays
    assert list(arrays) == ["w", "step"]
    assert len(arrays) == 2
    assert "w" in arrays
    assert "v" not in arrays
    assert arrays.specs["w"] == jax.ShapeDtypeStruct((8, 5), np.float32)
    assert repr(arrays) == "LazyArrays of 2 arrays"
    assert recorder.read == []
    np.testing.assert_array_equal(arrays["w"], W, strict=True)
    assert arrays["step"] == 3
    assert recorder.read == [("w", 0, 8), ("step", 0, 1)]
    with pytest.raises(KeyError):
        arrays["v"]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ((slice(2, 5),), (2, 5)),
        ((slice(2, 5), slice(1, 3)), (2, 5)),
        ((slice(None), slice(1, 3)), (0, 8)),
        ((slice(6, None), slice(None)), (6, 8)),
        ((slice(1, 7, 3),), (1, 7)),
        ((slice(5, 2),), (5, 5)),
        ((slice(None, None, -1),), (0, 8)),
        ((), (0, 8)),
        (None, (0, 8)),
    ],
)
def test_only_the_rows_of_a_part_are_read(index, rows):
    recorder = Recorder(w=W)
    part = recorder.arrays.read("w", index)
    np.testing.assert_array_equal(part, W[index or ()], strict=True)
    assert recorder.read == [("w", *rows)]
    assert part.base is None or part.base.size <= part.size  # a big array is not kept alive


def test_a_part_of_too_many_axes():
    with pytest.raises(UserError, match=r"w: expected at most 2 slices, got 3"):
        Recorder(w=W).arrays.read("w", (slice(None),) * 3)


@pytest.mark.parametrize("kind", ["safetensors", "strided"])
def test_reading_takes_no_more_memory_than_the_array(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    big = np.ones((2048, 1024), np.float32)
    save_file({"big": big, "other": big}, path)
    if kind == "safetensors":
        arrays = open_safetensors(path)
    else:
        arrays = LazyArrays({"big": stored_region(path, 256, np.dtype("f4"), (512, 1024), (1, 9))})
    num_bytes = int(np.prod(arrays.specs["big"].shape)) * 4
    index = (slice(0, 256),) if kind == "safetensors" else None
    expected = num_bytes // 8 if index else num_bytes
    tracemalloc.start()
    try:
        array = arrays.read("big", index)
        _, peak = tracemalloc.get_traced_memory()
        assert array.nbytes == expected
        assert peak < expected * 1.1 + 50_000
        del array
        left, _ = tracemalloc.get_traced_memory()
        assert left < 50_000
    finally:
        tracemalloc.stop()


def test_converting_keeps_one_array(tmp_path):
    specs = {f"w{index}": jax.ShapeDtypeStruct((256, 1024), jnp.bfloat16) for index in range(16)}
    rows = np.ones((256, 1024), jnp.bfloat16)
    write_safetensors(tmp_path / "a", specs, ((name, rows) for name in specs), {})
    tracemalloc.start()
    try:
        arrays = open_safetensors(tmp_path / "a")
        write_safetensors(tmp_path / "b", arrays.specs, arrays.items(), {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * rows.nbytes  # of 16; one is read, and type checks read one more
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "end"),
    [
        (-4, (1,), None, None),
        (0, (11,), None, None),
        (36, (2,), None, None),
        (0, (2,), (10,), None),
        (0, (10,), None, 36),
        (0, (-1,), None, None),
        (0, (2, 2), (1,), None),
        (0, (2,), (-1,), None),
        (0, (2**40,), (0,), None),
    ],
)
def test_regions_that_do_not_fit(tmp_path, offset, shape, strides, end):
    (tmp_path / "a").write_bytes(bytes(40))
    with pytest.raises(ValueError, match=r"an array"):
        stored_region(tmp_path / "a", offset, np.dtype("f4"), shape, strides, end=end)


def test_a_file_that_shrinks_or_goes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": W}, path)
    arrays = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{path}: .* EOFError \(the file ends early\)"):
        arrays["w"]
    path.unlink()
    with pytest.raises(UserError, match=rf"{path}: .* FileNotFoundError"):
        arrays["w"]


def test_placing_on_one_device():
    recorder = Recorder(w=W, step=np.array(3, np.int64), half=W.astype(jnp.bfloat16))
    sharding = SingleDeviceSharding(jax.devices()[0])
    placed = place(recorder.arrays, "w", sharding)
    assert placed.sharding == sharding
    np.testing.assert_array_equal(np.asarray(placed), W, strict=True)
    assert place(recorder.arrays, "step", sharding).dtype == jnp.int32  # JAX has no int64 here
    assert place(recorder.arrays, "step", sharding) == 3
    assert place(recorder.arrays, "half", sharding).dtype == jnp.bfloat16


# Type checks, which read an array of a mapping that they check, are only on in the tests.
WITHOUT_TYPE_CHECKS = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from test_lazy_arrays import Recorder, W
from igpt_jax.interop.lazy_arrays import place
from igpt_jax.interop.weights import take_weight
recorder = Recorder(w=W, v=W)
assert take_weight(recorder.arrays, "w", (8, 5), model="A").shape == W.shape
assert recorder.read == [("w", 0, 8)]
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
wide = np.arange(32.0, dtype=np.float32).reshape(8, 4)
for spec in (P("a"), P("b", "a"), P(None, "b"), P(("a", "b")), P()):
    recorder = Recorder(w=wide)
    placed = place(recorder.arrays, "w", NamedSharding(mesh, spec))
    np.testing.assert_array_equal(np.asarray(placed), wide)
    assert placed.sharding.spec == spec and len(placed.addressable_shards) == 4
    assert recorder.read == [("w", 0, 8)], recorder.read  # once, whatever the devices share
"""


def test_nothing_is_read_twice():
    # In a process of its own, also for its number of devices.
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TYPE_CHECKS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("indices", "starts", "stops"),
    [
        ([(slice(2, 4), slice(None))], (2, 0), (4, 5)),
        ([(slice(2, 4), slice(0, 2)), (slice(4, 6), slice(0, 2))], (2, 0), (6, 2)),
        ([(slice(6, 8), slice(3, 5)), (slice(6, 8), slice(3, 5))], (6, 3), (8, 5)),
        ([(slice(0, 2), slice(0, 1)), (slice(1, 3), slice(4, 5))], (0, 0), (3, 5)),
        ([(slice(1, 2),)], (1, 0), (2, 5)),
        ([], (0, 0), (0, 0)),
    ],
)
def test_a_process_reads_its_own_rows(indices, starts, stops):
    recorder = Recorder(w=W)
    part, first = read_around(recorder.arrays, "w", indices)
    assert ("w", starts[0], stops[0]) in recorder.read  # type checks read more
    assert first == starts
    np.testing.assert_array_equal(part, W[starts[0] : stops[0], starts[1] : stops[1]], strict=True)

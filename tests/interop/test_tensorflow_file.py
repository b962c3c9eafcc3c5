import sys

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import DTYPES
from igpt_jax.interop.weights import open_weights

ARRAYS = {
    "global_step": np.array(7, np.int64),
    "model/h0/attn/b": np.array([1.5, -2.0], np.float16),
    "model/half": np.array([1.0, -2.5], DTYPES["bfloat16"]),
    "model/wte": np.arange(12, dtype=np.float32).reshape(4, 3),
}


@pytest.fixture
def prefix(tmp_path):
    """A checkpoint as TF1 writes it, in two shards."""
    tf = pytest.importorskip("tensorflow")
    arrays = ARRAYS | {"title": np.array(b"text", object)}
    names = list(arrays)
    shards = [str(tmp_path / f"part-{index}") for index in range(2)]
    for index, shard in enumerate(shards):
        own = names[index::2]
        tf.raw_ops.SaveV2(
            prefix=shard,
            tensor_names=own,
            shape_and_slices=[""] * len(own),
            tensors=[tf.constant(arrays[name]) for name in own],
        )
    prefix = tmp_path / "model.ckpt-1000000"
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=shards, destination_prefix=str(prefix))
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        "model.ckpt-1000000.data-00000-of-00002",
        "model.ckpt-1000000.data-00001-of-00002",
        "model.ckpt-1000000.index",
    ]
    return prefix


@pytest.mark.parametrize("suffix", ["", ".index"])
def test_a_checkpoint_of_tf1(prefix, suffix):
    arrays = open_weights(f"{prefix}{suffix}")
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays.specs[name].shape, arrays.specs[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    part = arrays.read("model/wte", (slice(1, 3), slice(0, 2)))
    np.testing.assert_array_equal(part, ARRAYS["model/wte"][1:3, :2], strict=True)


def test_a_checkpoint_of_tf2(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tf.train.Checkpoint(w=tf.Variable([1.0, 2.0])).write(str(tmp_path / "ckpt"))
    arrays = open_weights(path)
    assert list(arrays) == ["w/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(arrays["w/.ATTRIBUTES/VARIABLE_VALUE"], [1.0, 2.0])


def test_damaged_checkpoints(prefix):
    index = prefix.with_name(prefix.name + ".index")
    whole = index.read_bytes()
    for end in (0, 5, len(whole) // 2, len(whole) - 1):
        index.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"expected a whole file of arrays"):
            open_weights(prefix)
    index.write_bytes(whole)
    arrays = open_weights(prefix)
    for data in prefix.parent.glob("model*.data*"):
        data.write_bytes(b"")
    with pytest.raises(UserError, match=r"expected a whole file of arrays"):
        arrays["model/wte"]


def test_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "model.ckpt-10.index").touch()
    for name in ("model.ckpt-10", "model.ckpt-10.index"):
        with pytest.raises(UserError, match=r"pip install 'igpt_jax\[tensorflow\]'"):
            open_weights(tmp_path / name)


def test_an_entry_is_refused(tmp_path):
    (tmp_path / "model.ckpt.index").touch()
    for name in ("model.ckpt", "model.ckpt.index"):
        with pytest.raises(UserError, match=r"expected no entry"):
            open_weights(tmp_path / name, "ema")

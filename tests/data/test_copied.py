"""Encoded tokens from an object store."""

import fsspec
import numpy as np
import pytest

from igpt_jax.data.copied import copy_folder
from igpt_jax.data.encode import EncodingConfig, TokenSource, encode_dataset
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.errors import UserError


def encode(images):
    """Each picture's corner, four times."""
    return np.tile(images[:, :1, 0, 0].astype(np.int32), (1, 4))


def decode(tokens):
    return np.zeros((len(tokens), 2, 2, 3), np.uint8)


@pytest.fixture
def written(tmp_path):
    images = np.arange(12, dtype=np.uint8)[:, None, None, None, None]
    images = np.broadcast_to(images, (12, 1, 2, 2, 3))
    encode_dataset(
        [{"image": images, "label": np.arange(12, dtype=np.int32)}],
        encode, decode, tmp_path / "written",
        config=EncodingConfig(shard_size=5), header={"vocab_size": 256}, total=12,
        skipped=SkippedImages(),
    )  # fmt: skip
    return tmp_path / "written"


@pytest.mark.parametrize("place", ["memory", "file", "path"])
def test_copied_tokens_are_those_that_were_written(written, tmp_path, place):
    source = str(written)
    if place == "memory":
        source = "memory://bucket/tokens/train"
        fsspec.filesystem("memory").put(str(written) + "/", "/bucket/tokens/train/", recursive=True)
    elif place == "file":
        source = f"file://{written}"
    copy_folder(source, tmp_path / "copy" / "train")
    tokens = TokenSource(tmp_path / "copy" / "train", expected={"vocab_size": 256}, encode=encode)
    assert [int(tokens[i]["label"]) for i in range(len(tokens))] == list(range(12))
    assert {p.name for p in (tmp_path / "copy/train").iterdir()} == {
        p.name for p in written.iterdir()
    }


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("memory://bucket/nothing", "found none"),
        ("/no/such/folder", "found none"),
        ("nosuchprotocol://a/b", "Protocol not known"),
    ],
)
def test_what_is_not_there_is_one_line(source, words, tmp_path):
    with pytest.raises(UserError, match=words) as raised:
        copy_folder(source, tmp_path / "copy")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "copy").exists()

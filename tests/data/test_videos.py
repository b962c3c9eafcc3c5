import hashlib
import json
import logging
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import encode
from PIL import Image

from igpt_jax.data.examples import Split
from igpt_jax.data.images import BrokenImageError
from igpt_jax.data.video_files import write_gif, write_mp4
from igpt_jax.data.videos import VideoConfig, VideoSource
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict


def frame(number: int, video: int = 0, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """A picture that says which frame of which video it is."""
    return np.full((*size, 3), (10 * number, 20 * video, 200), np.uint8)


def frames(count: int, video: int = 0) -> np.ndarray:
    return np.stack([frame(number, video) for number in range(count)])


def picture(number: int, video: int = 0, size: tuple[int, int] = (6, 8)) -> bytes:
    return encode(Image.fromarray(frame(number, video, size)), "PNG")


def gif(tmp_path: Path, count: int, video: int = 0) -> bytes:
    write_gif(tmp_path / "made.gif", frames(count, video))
    return (tmp_path / "made.gif").read_bytes()


def write(root: Path, files: dict[str, bytes]) -> Path:
    """A folder, or a zip archive where the name ends so."""
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def source_of(root: Path, split: Split = "train", **changes) -> VideoSource:
    config = VideoConfig(str(root), **{"num_frames": 4, "validation_share": 0.0} | changes)
    return VideoSource(config, split)


def seen(video: np.ndarray) -> list[int]:
    """The numbers of its frames."""
    return (video[:, 0, 0, 0] / 10).round().astype(int).tolist()


@pytest.fixture(params=["tree", "tree.zip"])
def tree(request, tmp_path) -> Path:
    files = {f"dogs/run/{n}.png": picture(n, 1) for n in range(11)}
    files |= {"cats/deep/sit.gif": gif(tmp_path, 9, 2), "cats/jump.gif": gif(tmp_path, 4, 3)}
    files |= {"dogs/short.gif": gif(tmp_path, 3, 4), "readme.txt": b"x", "beside.gif": b"x"}
    files |= {"__MACOSX/cats/jump.gif": b"x", "cats/.hidden.gif": b"x", "top.png": b"x"}
    return write(tmp_path / request.param, files)


def test_each_video_gives_clips_that_do_not_overlap(tree):
    source = source_of(tree)
    assert source.class_names == ("cats", "dogs")
    assert source.names == ("cats/deep/sit.gif", "cats/jump.gif", "dogs/run")
    assert source.num_clips == (2, 1, 2)
    assert len(source) == 5
    clips = [(0, 2, [0, 1, 2, 3]), (0, 2, [4, 5, 6, 7]), (0, 3, [0, 1, 2, 3])]
    clips += [(1, 1, [0, 1, 2, 3]), (1, 1, [4, 5, 6, 7])]
    for item, (label, video, numbers) in zip(source, clips, strict=True):
        assert item["label"] == label
        assert "caption" not in item
        np.testing.assert_array_equal(item["video"], [frame(n, video) for n in numbers])
    assert [source.clip(index) for index in range(5)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    for index in (-1, 5):
        with pytest.raises(IndexError, match=r"0\.\.4"):
            source[index]


@pytest.mark.parametrize(
    ("num_frames", "stride", "expected"),
    [
        (4, 2, [[0, 2, 4, 6]]),
        (2, 3, [[0, 3], [6, 9]]),
        (1, 5, [[0], [5], [10]]),
        (3, 1, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (11, 1, [list(range(11))]),
        (3, 5, [[0, 5, 10]]),
    ],
)
def test_clips_have_the_stride_of_the_config(tmp_path, num_frames, stride, expected):
    folder = write(tmp_path / "a", {f"run/{n}.png": picture(n) for n in range(11)})
    file = write(tmp_path / "b", {"run.gif": gif(tmp_path, 11)})
    for root in (folder, file):
        source = source_of(root, num_frames=num_frames, frame_stride=stride)
        assert [seen(item["video"]) for item in source] == expected


def test_an_mp4_is_read_like_its_frames(tmp_path):
    pytest.importorskip("av")
    write_mp4(tmp_path / "a" / "clip.mp4", frames(9), zoom=4)
    source = source_of(tmp_path / "a")
    assert [seen(item["video"]) for item in source] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert source[0]["video"].shape == (4, 24, 32, 3)
    assert source.class_names == ("all",)


def test_short_videos_are_left_out_and_counted(tree, caplog):
    with caplog.at_level(logging.WARNING, "igpt_jax.data"):
        source = source_of(tree)
        assert source.too_short == ("dogs/short.gif",)
    assert "left out 1 videos of fewer than 4 frames: dogs/short.gif" in caplog.text
    with pytest.raises(UserError, match="at least 12 frames for train, got 4 of 4"):
        source_of(tree, num_frames=12)


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    names = ["f1.png", "f2.png", "f010.png", "f11.jpg.png"]
    files = {f"v/{name}": picture(n) for n, name in enumerate(names)}
    source = source_of(write(tmp_path / "a.zip", dict(reversed(files.items()))))
    assert seen(source[0]["video"]) == [0, 1, 2, 3]
    assert source.names == ("v",)
    videos = {f"clip{n}/1.png": picture(n) for n in (10, 9, 1)}
    source = source_of(write(tmp_path / "b", videos), num_frames=1)
    assert source.names == ("clip1", "clip9", "clip10")


def test_the_splits_are_decided_by_the_names_of_videos_alone(tmp_path):
    names = [f"v{number:02}" for number in range(30)]
    files = {f"{name}/{n}.png": picture(n) for name in names for n in range(4)}
    root = write(tmp_path / "a.zip", files)
    train, validation = (
        source_of(root, split, validation_share=0.3, num_frames=2)
        for split in ("train", "validation")
    )
    shares = [int(hashlib.sha256(n.encode()).hexdigest()[:16], 16) / 2**64 for n in names]
    held_out = tuple(n for n, share in zip(names, shares, strict=True) if share < 0.3)
    assert 3 < len(held_out) < 15
    assert validation.names == held_out
    assert set(train.names) == set(names) - set(held_out)
    assert set(train.num_clips) == {2}
    with pytest.raises(UserError, match="for validation, got 0 of 30"):
        source_of(root, "validation")


def captions(*rows: dict) -> bytes:
    return b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)


def test_captions_name_files_and_folders_of_frames(tree, tmp_path):
    rows = captions(
        {"file": "../dogs/run", "caption": "一只狗", "keywords": ["dog", "一只狗"], "kind": "pet"},
        {"file": "../cats/jump.gif", "caption": "a cat", "kind": "wild"},
    )
    files = {"dogs/run/1.png": picture(0), "dogs/run/2.png": picture(1)}
    files |= {"cats/jump.gif": gif(tmp_path, 5), "cats/other.gif": gif(tmp_path, 9)}
    flat = rows.replace(b"../", b"")
    root = write(tmp_path / "b.zip", files | {"captions.jsonl": flat})
    source = source_of(root, num_frames=2, captions_file="captions.jsonl")
    assert source.names == ("dogs/run", "cats/jump.gif")
    assert source.class_names == ("cats", "dogs")
    assert [item["caption"] for item in source] == ["一只狗", "a cat", "a cat"]
    assert source.captions(0) == ("一只狗", "dog")
    assert source.captions(2) == ("a cat",)
    source = source_of(root, num_frames=2, captions_file="captions.jsonl", category_key="kind")
    assert source.class_names == ("pet", "wild")
    assert [item["label"] for item in source] == [0, 1, 1]

    for row, match in [
        ({"file": "cats/none.gif", "caption": "x"}, "which is not there"),
        ({"file": "dogs/run/1.png", "caption": "x"}, "which is not there"),
        ({"file": "cats/jump.gif"}, "expected a text as 'caption'"),
        ({"file": "captions.jsonl", "caption": "x"}, "expected a video"),
    ]:
        root = write(tmp_path / "c.zip", files | {"captions.jsonl": captions(row)})
        with pytest.raises(UserError, match=match):
            source_of(root, captions_file="captions.jsonl")
    with pytest.raises(UserError, match=r"expected a file text\.jsonl"):
        source_of(root, captions_file="text.jsonl")


def test_a_damaged_video_is_an_item_that_names_it(tmp_path):
    good = gif(tmp_path, 8)
    files = {"a.gif": good, "b.gif": good[:-40], "c/1.png": picture(0), "c/2.png": b"x"}
    files |= {f"c/{n}.png": picture(n) for n in (3, 4)}
    files |= {f"d/{n}.png": picture(n, size=(6, 8 + n // 3)) for n in range(4)}
    source = source_of(write(tmp_path / "tree", {f"x/{k}": v for k, v in files.items()}))
    assert source.num_clips == (2, 1, 1, 1)
    assert seen(source[1]["video"]) == [4, 5, 6, 7]
    with pytest.raises(BrokenImageError, match=r"x/b\.gif: "):
        source[2]
    with pytest.raises(BrokenImageError, match=r"x/c: 2\.png: "):
        source[3]
    with pytest.raises(BrokenImageError, match=r"x/d: .*one size, got 8 x 6, 9 x 6"):
        source[4]


def test_transparent_frames_lie_on_the_background(tmp_path):
    clear = encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "PNG")
    source = source_of(
        write(tmp_path / "a", {"v/1.png": clear}), num_frames=1, background=(1, 2, 3)
    )
    assert source[0]["video"][0, 0, 0].tolist() == [1, 2, 3]


def test_sources_are_pickled_and_configs_stored(tree):
    source = source_of(tree)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[4]["video"], source[4]["video"])
    assert "3 videos, 5 clips" in repr(copy)
    config = VideoConfig("x", 16, 2, 0.5, "c.jsonl", category_key="kind")
    assert from_dict(VideoConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_wrong_configs_are_told(tmp_path):
    config = VideoConfig("x")
    for changes in (
        {"num_frames": 0},
        {"frame_stride": 0},
        {"validation_share": 1.0},
        {"background": (0, 0, 256)},
        {"category_key": "kind"},
    ):
        with pytest.raises(UserError, match=rf"VideoConfig\.{next(iter(changes))}: expected"):
            replace(config, **changes)
    with pytest.raises(UserError, match="folder of its own"):
        source_of(write(tmp_path / "a", {"1.png": picture(0), "b.txt": b""}))
    with pytest.raises(UserError, match="nothing there"):
        source_of(tmp_path / "none")

import os
import pickle
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, noise
from PIL import Image

from igpt_jax.data.archives import MAX_FILE_BYTES
from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.images import BrokenImageError
from igpt_jax.errors import UserError

TREE = {
    "cat/0002.png": 2, "cat/0001.PNG": 1, "cat/deep/er/0000.png": 3, "ant/b.png": 4,
    "ant/a.png": 5, "ant/c.png": 6,
}  # fmt: skip
OTHERS = ["cat/notes.txt", ".hidden/x.png", "cat/.x.png", "__MACOSX/cat/._0001.png", "root.png"]


def picture(seed: int) -> bytes:
    return encode(Image.fromarray(noise(seed=seed)), "PNG")


@pytest.fixture(params=["folder", "stored zip", "deflated zip"])
def tree(request, tmp_path) -> Path:
    files = {name: picture(seed) for name, seed in TREE.items()}
    files |= dict.fromkeys(OTHERS, b"x")
    if request.param == "folder":
        return write_folder(tmp_path / "tree", files)
    how = zipfile.ZIP_STORED if request.param == "stored zip" else zipfile.ZIP_DEFLATED
    return write_zip(tmp_path / "tree.zip", files, how)


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.mkdir("cat")
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_classes_are_the_topmost_folders_in_sorted_order(tree):
    source = FolderSource(FolderConfig(str(tree)), "train")
    assert source.class_names == ("ant", "cat")
    assert source.num_classes == 2
    assert source.ignored == len(OTHERS)
    assert source.names == (
        "ant/a.png", "ant/b.png", "ant/c.png",
        "cat/0001.PNG", "cat/0002.png", "cat/deep/er/0000.png",
    )  # fmt: skip
    items = list(source)
    assert [item["label"] for item in items] == [0, 0, 0, 1, 1, 1]
    for name, item in zip(source.names, items, strict=True):
        np.testing.assert_array_equal(item["image"], noise(seed=TREE[name]))


def test_validation_is_the_end_of_each_class(tree):
    config = FolderConfig(str(tree), validation_per_class=1)
    train, validation = FolderSource(config, "train"), FolderSource(config, "validation")
    assert validation.names == ("ant/c.png", "cat/deep/er/0000.png")
    assert [item["label"] for item in validation] == [0, 1]
    assert len(train) == 4
    assert not set(train.names) & set(validation.names)
    assert train.class_names == validation.class_names


def test_sources_can_be_pickled_and_shared_by_threads(tree):
    source = pickle.loads(pickle.dumps(FolderSource(FolderConfig(str(tree)), "train")))
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            for index, name in enumerate(source.names):
                if not np.array_equal(source[index]["image"], noise(seed=TREE[name])):
                    wrong.append(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_indices_outside_are_refused(tree):
    source = FolderSource(FolderConfig(str(tree)), "train")
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=r"expected an index in 0\.\.5"):
            source[index]


def test_a_flat_folder_is_one_class(tmp_path):
    root = write_folder(tmp_path, {"b.png": picture(1), "a.png": picture(2), "readme.md": b"x"})
    source = FolderSource(FolderConfig(str(root)), "train")
    assert (source.num_classes, source.names, source.ignored) == (1, ("a.png", "b.png"), 1)
    assert source[0]["label"] == 0


def test_links_are_followed_once(tmp_path):
    target = write_folder(tmp_path / "elsewhere", {"x.png": picture(0)})
    root = write_folder(tmp_path / "root", {"a/y.png": picture(1)})
    os.symlink(target, root / "b")
    os.symlink(root, root / "a" / "loop")
    source = FolderSource(FolderConfig(str(root)), "train")
    assert source.names == ("a/y.png", "b/x.png")


def test_broken_files_are_named(tree):
    source = FolderSource(FolderConfig(str(tree)), "train")
    if tree.is_dir():
        (tree / "ant/b.png").write_bytes(b"")
    else:
        data = bytearray(tree.read_bytes())
        body = bytes(picture(4)[40:60])
        place = data.find(body)
        place = data.find(b"ant/b.png") + 30 if place < 0 else place
        data[place] ^= 0xFF
        tree.write_bytes(data)
    with pytest.raises(BrokenImageError, match=r"ant/b\.png: (the file is empty|damaged)"):
        source[1]
    assert source[0]["label"] == 0


def test_files_that_vanish_are_broken(tmp_path):
    root = write_folder(tmp_path, {"a/x.png": picture(0)})
    source = FolderSource(FolderConfig(str(root)), "train")
    (root / "a/x.png").unlink()
    with pytest.raises(BrokenImageError, match=r"a/x\.png: No such file"):
        source[0]


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_archives_cut_after_indexing_are_broken(tmp_path, keep):
    path = write_zip(tmp_path / "a.zip", {"a/x.png": picture(0)})
    source = FolderSource(FolderConfig(str(path)), "train")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BrokenImageError, match=r"a/x\.png: damaged in the archive"):
        source[0]


def test_zip_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.png", bytes(1 << 20))
        archive.writestr("a/y.png", bytes(1 << 20))
    data = bytearray(path.read_bytes())
    # The first entry claims to be huge; the second claims to be smaller than it is.
    first = data.find(b"PK\x01\x02")
    second = data.find(b"PK\x01\x02", first + 1)
    struct.pack_into("<I", data, first + 24, MAX_FILE_BYTES + 1)
    struct.pack_into("<I", data, second + 24, 100)
    path.write_bytes(data)
    source = FolderSource(FolderConfig(str(path)), "train")
    with pytest.raises(BrokenImageError, match="more than the limit"):
        source[0]
    with pytest.raises(BrokenImageError, match="wrong length"):
        source[1]


def write_locked_zip(path: Path) -> Path:
    data = bytearray(write_zip(path, {"a/x.png": picture(0)}).read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 8] |= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "options", "split", "message"),
    [
        (lambda p: p / "none", {}, "train", "expected a folder or a zip archive, got nothing"),
        (lambda p: write_folder(p, {"a": b"x"}) / "a", {}, "train", "got another kind of file"),
        (lambda p: write_folder(p, {"a/b.txt": b"x"}), {}, "train", "got none among 1 files"),
        (lambda p: write_zip(p / "a.zip", {}), {}, "train", "got none among 0 files"),
        (lambda p: write_folder(p, {"a/b.png": b"x"}), {}, "validation", "validation_per_class"),
        (lambda p: write_folder(p, {"a/b.png": b"x"}), {"validation_per_class": 1}, "train",
         "class 'a': expected more than validation_per_class = 1 pictures, got 1"),
        (lambda p: write_zip(p / "a.zip", {"a/b.png": b"x"}, zipfile.ZIP_LZMA), {}, "train",
         "packed in another way"),
        (lambda p: write_locked_zip(p / "a.zip"), {}, "train", "packed in another way"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, make, options, split, message):
    with pytest.raises(UserError, match=message) as raised:
        FolderSource(FolderConfig(str(make(tmp_path)), **options), split)
    assert "\n" not in str(raised.value)


def test_negative_validation_is_refused():
    with pytest.raises(UserError, match="validation_per_class: expected at least 0, got -1"):
        FolderConfig("x", -1)


def real(name: str) -> str:
    path = Path(os.environ.get("IGPT_DATA", "")) / name
    if "IGPT_DATA" not in os.environ or not path.exists():
        pytest.skip(f"needs {name} in the folder that IGPT_DATA names")
    return f"$IGPT_DATA/{name}"


def test_cifar10():
    config = FolderConfig(real("cifar10-train.zip"), validation_per_class=500)
    source = FolderSource(config, "validation")
    assert len(source) == 5000
    assert source.class_names[:3] == ("airplane", "automobile", "bird")
    item = source[4999]
    assert item["image"].shape == (32, 32, 3)
    assert item["label"] == 9
    with zipfile.ZipFile(Path(os.environ["IGPT_DATA"]) / "cifar10-train.zip") as archive:
        expected = np.array(Image.open(archive.open("truck/4999.jpg")).convert("RGB"))
    np.testing.assert_array_equal(item["image"], expected)


def test_twemoji():
    source = FolderSource(FolderConfig(real("twemoji-64.zip")), "train")
    assert (len(source), source.class_names, source.ignored) == (1911, ("images",), 1)
    corners = [tuple(source[index]["image"][0, 0]) for index in range(0, 1911, 100)]
    assert corners.count((255, 255, 255)) > len(corners) // 2

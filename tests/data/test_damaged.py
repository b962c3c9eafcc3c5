"""Whatever a file holds, it decodes or is named as broken, without any warning."""

import logging
import warnings

import numpy as np
import pytest
from pictures import damaged_files, encode, noise, sound_files
from PIL import Image

from igpt_jax.data.folders import FolderConfig, FolderSource
from igpt_jax.data.images import BrokenImageError, decode_image
from igpt_jax.data.pipeline import make_dataset, on_image
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.transforms import center_crop

DAMAGED = damaged_files()


def outcome(data: bytes) -> str | None:
    """None when the bytes decode, or the reason why they do not."""
    try:
        image = decode_image(data)
    except BrokenImageError as error:
        return str(error)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[-1] == 3
    assert image.size > 0
    return None


def test_there_are_enough_cases():
    assert len(DAMAGED) > 200


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damaged_bytes_decode_or_are_broken(name, recwarn, capfd):
    warnings.simplefilter("always")
    reason = outcome(DAMAGED[name])
    assert not recwarn.list
    printed = capfd.readouterr()
    assert not printed.out
    if "tif" not in name:  # libtiff, in C, prints what it finds
        assert not printed.err
    if reason is not None:
        assert reason
        assert "\n" not in reason
        assert "object at 0x" not in reason


@pytest.mark.parametrize("name", sorted(sound_files()))
def test_sound_files_decode(name):
    assert outcome(sound_files()[name]) is None


@pytest.mark.parametrize(
    "name", [name for name in DAMAGED if name.startswith(("cut-0.1-", "cut-0.5-", "zeros", "bomb"))]
)
def test_clearly_damaged_files_are_never_decoded(name):
    assert outcome(DAMAGED[name]) is not None


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp"])
def test_every_truncation_of_a_small_file(ending):
    data = encode(Image.fromarray(noise(5, 4)), {"jpg": "JPEG"}.get(ending, ending.upper()))
    for length in range(0, len(data), 3):
        outcome(data[:length])


def test_the_pipeline_skips_every_damaged_file(tmp_path, caplog):
    """All damaged files among sound ones: the sound ones arrive, the others are named once."""
    caplog.set_level(logging.WARNING, "igpt_jax.data")
    folder = tmp_path / "c"
    folder.mkdir()
    for number, (name, data) in enumerate({**sound_files(), **DAMAGED}.items()):
        (folder / f"{number:03}-{name.replace('.svg', '.webp')}").write_bytes(data)
    source = FolderSource(FolderConfig(str(tmp_path)), "train")
    assert len(source) == len(DAMAGED) + len(sound_files())
    broken = {name for name in source.names if outcome((tmp_path / name).read_bytes())}
    skipped = SkippedImages()
    dataset = make_dataset(
        source,
        transform=on_image(lambda image, rng: center_crop(image, 8)),
        global_batch_size=16,
        seed=0,
        shuffle=True,
        num_epochs=1,
        max_broken_share=1.0,
        skipped=skipped,
    )
    arrived = sum(len(batch["image"]) for batch in dataset)
    assert (skipped.seen, skipped.broken) == (len(source), len(broken))
    assert arrived == len(source) - len(broken)
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == len(broken)
    assert all(any(name in message for message in logged) for name in broken)

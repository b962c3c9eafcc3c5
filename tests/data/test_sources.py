import numpy as np
import pytest
from pictures import encode, noise
from PIL import Image

from igpt_jax.data.sources import (
    ArrayConfig,
    ArraySource,
    CardsConfig,
    CardSource,
    FolderConfig,
    FolderSource,
    Source,
    open_source,
)


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / "a" / name).write_bytes(encode(Image.fromarray(noise()), "PNG"))
    np.save(tmp_path / "x.npy", np.stack([noise()] * 3))
    return {
        CardSource: CardsConfig(),
        FolderSource: FolderConfig(str(tmp_path), validation_per_class=1),
        ArraySource: ArrayConfig(str(tmp_path / "x.npy"), validation_count=1),
    }


@pytest.mark.parametrize("kind", [CardSource, FolderSource, ArraySource])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_configuration_opens_its_source(configs, kind, split):
    source = open_source(configs[kind], split)
    assert isinstance(source, kind)
    assert isinstance(source, Source)
    assert len(source.class_names) == source.num_classes
    item = source[0]
    assert item["image"].dtype == np.uint8
    assert item["image"].shape[-1] == 3
    assert 0 <= item["label"] < source.num_classes
    with pytest.raises(IndexError):
        source[len(source)]

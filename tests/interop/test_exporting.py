import json

import numpy as np
import published
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import igpt_jax
from igpt_jax import interop
from igpt_jax.cli import main
from igpt_jax.errors import UserError
from igpt_jax.interop.exporting import export
from igpt_jax.interop.importing import import_part
from igpt_jax.parameters import flatten

pytestmark = pytest.mark.xdist_group("exporting")


def test_a_run_comes_back_from_its_export(tiny_run, tmp_path, capsys):
    assert main(["export", str(tiny_run), "--to", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "directory": str(tmp_path / "out")
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "gpt.safetensors", "samples.png", "tokenizer.safetensors",
    ]  # fmt: skip
    ours, theirs = igpt_jax.load(tiny_run), igpt_jax.load(tmp_path / "out")
    np.testing.assert_array_equal(ours.sample([3, 9]), theirs.sample([3, 9]))
    with safe_open(tmp_path / "out" / "gpt.safetensors", "np") as file:
        assert set(file.keys()) == set(flatten(ours.params))
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert min(picture.size) > 100


def test_captions_and_pictures_are_asked_of_an_export(asked_run, tmp_path):
    export(asked_run, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"caption_tokenizer.json", "samples.png"}
    ours, theirs = igpt_jax.load(asked_run), igpt_jax.load(tmp_path / "out")
    texts = ["a red card of hearts with the number 7 in the centre", "红桃"]
    encoded = [model.caption_tokenizer.encode(texts, 24)[0] for model in (ours, theirs)]
    np.testing.assert_array_equal(*encoded)
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    for asked in ({"text": texts}, {"cond_images": images}, {"text": texts, "cond_images": images}):
        np.testing.assert_array_equal(ours.sample(**asked), theirs.sample(**asked))
    assert ours.caption(images) == theirs.caption(images)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "given a caption and another picture (grey versions): 16 tokens" in card
    assert 'model.sample(text="a red fox in the snow", cond_images=others, seed=0)' in card
    assert "pipeline_tag: text-to-image" in card
    assert (tmp_path / "out" / "samples.png").read_bytes() == (
        asked_run / "samples.png"
    ).read_bytes()
    again = tmp_path / "again"
    export(tmp_path / "out", again)
    for name in ("caption_tokenizer.json", "config.json", "gpt.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_caption_tokenizer_from_a_file_is_named_without_its_path(asked_run, tmp_path):
    tokenizer = asked_run / "caption_tokenizer.json"
    exported = tmp_path / "out"
    export(asked_run, exported)
    config = json.loads((exported / "config.json").read_text())
    config["caption_tokenizer"] = {"kind": "BPETokenizerConfig", "path": str(tokenizer)}
    (exported / "config.json").write_text(json.dumps(config))
    export(exported, tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())["caption_tokenizer"]
    assert written["path"] == "caption_tokenizer.json"
    ours, theirs = igpt_jax.load(exported), igpt_jax.load(tmp_path / "again")
    np.testing.assert_array_equal(ours.sample(text="a card"), theirs.sample(text="a card"))


def test_videos_are_asked_of_an_export(video_run, tmp_path):
    export(video_run, tmp_path / "out")
    ours, theirs = igpt_jax.load(video_run), igpt_jax.load(tmp_path / "out")
    drawn = ours.sample([3, 9])
    assert drawn.shape == (2, 4, 32, 32, 3)
    np.testing.assert_array_equal(drawn, theirs.sample([3, 9]))
    frames = drawn[:, 0]
    np.testing.assert_array_equal(
        ours.sample([3, 9], images=frames), theirs.sample([3, 9], images=frames)
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Draws 32 x 32 videos of 4 frames, given a class (98 classes): 64 tokens" in card
    assert "# uint8 [b, 4, 32, 32, 3]" in card
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.height > 3 * picture.width  # 16 videos of 4 frames


def test_the_card_tells_what_was_measured(tiny_run, tmp_path):
    export(tiny_run, tmp_path / "out", push=None)
    card = (tmp_path / "out" / "README.md").read_text()
    result = json.loads((tiny_run / "result.json").read_text())["result"]
    assert card.startswith("---\nlibrary_name: igpt_jax\n")
    assert f"| nats a token, validation | {result['nats_per_token']:.4g} |" in card
    model = igpt_jax.load(tiny_run)
    count = sum(leaf.size for leaf in flatten(model.params).values())
    assert f"| GPT | GPT | {count:,} |" in card
    assert "![" in card


def test_bfloat16_halves_the_gpt_and_leaves_the_tokenizer(tiny_run, tmp_path):
    export(tiny_run, tmp_path / "out", dtype="bfloat16")
    gpt, tokenizer = (
        {str(leaf.dtype) for leaf in load_file(tmp_path / "out" / f"{part}.safetensors").values()}
        for part in ("gpt", "tokenizer")
    )
    assert (gpt, tokenizer) == ({"bfloat16"}, {"float32"})
    images = igpt_jax.load(tmp_path / "out").sample([1])
    assert images.shape == (1, 32, 32, 3)


@pytest.fixture
def imagegpt(tmp_path):
    arrays = published.arrays_of("imagegpt")
    clusters = np.random.default_rng(0).uniform(-1, 1, (16, 3)).tolist()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"clusters": clusters}))
    path = published.write(tmp_path / "model.safetensors", arrays)
    import_part(str(path), "imagegpt", tmp_path / "imagegpt", num_heads=3)
    return tmp_path / "imagegpt", arrays


def test_imagegpt_goes_out_as_it_came_in(imagegpt, tmp_path):
    directory, arrays = imagegpt
    export(directory, tmp_path / "hf", layout="transformers")
    written = load_file(tmp_path / "hf" / "model.safetensors")
    biases = {name for name in written if name.endswith(".bias")}
    assert set(written) - biases == set(arrays)
    assert len(biases) == 4 * 2
    assert not any(written[name].any() for name in biases)
    for name, array in arrays.items():
        np.testing.assert_array_equal(written[name], array)
    import_part(str(tmp_path / "hf"), "imagegpt", tmp_path / "again", num_heads=3)
    ours, theirs = igpt_jax.load(directory), igpt_jax.load(tmp_path / "again")
    np.testing.assert_array_equal(ours.sample(num_images=2), theirs.sample(num_images=2))
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "library_name: transformers" in card


def test_other_shapes_do_not_go_to_transformers(tiny_run, tmp_path):
    with pytest.raises(UserError, match="a model of ImageGPT's shape"):
        export(tiny_run, tmp_path / "hf", layout="transformers")
    assert not (tmp_path / "hf").exists()


def test_nothing_is_overwritten_or_half_written(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="new or empty directory"):
        export(tiny_run, tmp_path / "full")

    def fail(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr("igpt_jax.interop.exporting.save_png", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        export(tiny_run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_convert_is_reached_from_the_package():
    assert igpt_jax.interop.convert is interop.convert

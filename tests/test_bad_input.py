"""Whatever is wrong outside ends in one clear line and exit code 2: nothing lost, no traceback."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igpt_jax.cli import main
from igpt_jax.config import RunConfig
from igpt_jax.data.encode import TokenSource
from igpt_jax.errors import UserError
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.stored import load
from igpt_jax.testing import tiny_config

REPOSITORY = Path(__file__).parent.parent
DEBUG = str(REPOSITORY / "configs/debug.py")


def fails(capsys, *argv):
    """Runs a command that must fail; returns its one line."""
    assert main([str(arg) for arg in argv]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.err + captured.out
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "config"),
        (["configs/none.py"], "found none"),
        ([DEBUG.replace("debug", "debgu")], "did you mean"),
        ([DEBUG, "--seed"], "--seed"),
        ([DEBUG, "--seed", "one"], "invalid literal for int() with base 10: 'one'"),
        ([DEBUG, "--sead", "1"], "--seed"),
        ([DEBUG, "--gpt.num_layer", "1"], "--gpt.num-layers"),
        ([DEBUG, "--gpt.num_layers", "0"], "num_layers must be at least 1, got 0"),
        ([DEBUG, "--gpt.num_heads", "5"], "num_heads 5, got 16"),
        ([DEBUG, "--gpt.activation", "relu"], "relu"),
        ([DEBUG, "--gpt.cond_drop_prob", "1"], "cond_drop_prob"),
        ([DEBUG, "--gpt.class_factors", "3", "3"], "class_factors"),
        ([DEBUG, "--gpt.vocab_size", "999"], "the tokenizer's 24, got 999"),
        ([DEBUG, "--gpt.qk_norm", "maybe"], "maybe"),
        ([DEBUG, "--tokenizer.image_size", "33"], "33"),
        ([DEBUG, "--transform.image_size", "64"], "expected the tokenizer's 32, got 64"),
        ([DEBUG, "--transform.brightness", "7"], "brightness"),
        ([DEBUG, "--data.max_numbers", "9"], "max_numbers"),
        ([DEBUG, "--gpt_training.num_steps", "0"], "num_steps: expected at least 1"),
        ([DEBUG, "--gpt_training.optimizer.peak_lr", "-1"], "peak_lr"),
        ([DEBUG, "--gpt_training.optimizer.peak_lr", "nan"], "peak_lr"),
        ([DEBUG, "--sampling.top_p", "2"], "top_p"),
        ([DEBUG, "--sampling.temperature", "-1"], "temperature"),
        ([DEBUG, "--mesh.data", "3"], "data * fsdp * tensor = 1 devices"),
        ([DEBUG, "--mesh.fsdp", "-2"], "mesh"),
        ([DEBUG, "--wandb_project", "x"], "wandb"),
        ([DEBUG, "--gpt_training.accumulation_steps", "3"], "multiple of 3"),
        ([DEBUG, "--gpt.num_heads", "0"], "num_heads must be at least 1"),
        ([DEBUG, "--gpt.num_heads", "-2"], "num_heads must be at least 1"),
        ([DEBUG, "--gpt.num_kv_heads", "0"], "kv_heads must be at least 1"),
        ([DEBUG, "--gpt.residual_dropout", "1"], "residual_dropout"),
        ([DEBUG, "--gpt.num_classes", "100"], "expected the data's 101"),
        ([DEBUG, "--gpt.num_classes", "103"], "expected the data's 101"),
        ([DEBUG, "--seed", "-1"], "seed"),
        ([DEBUG, "--samples.batch_size", "0"], "samples.batch_size"),
        ([DEBUG, "--gpt_training.ema_decay", "1"], "ema_decay"),
        ([DEBUG, "--gpt_training.optimizer.warmup_steps", "-1"], "warmup_steps"),
        ([DEBUG, "--gpt_training.global_batch_size", "32"], "expected at most 16"),
        ([DEBUG, "--data.num_validation", "4"], "expected at most 4"),
        ([DEBUG, "--tokenizer.num_frames", "3"], "num_frames: expected the data's 1, or 1 to"),
        ([DEBUG, "--tokenizer.temporal_downsample", "3"], "power of two"),
        ([DEBUG, "--tokenizer_path", "nowhere"], "nowhere"),
        ([DEBUG, "--tokenizer_path", "a", "--tokenizer_start", "b"], "got both"),
        ([DEBUG, "--tokenizer_start", "nowhere"], "nowhere"),
        ([DEBUG, "--tokenizer_loss.l2_weight", "0"], "l2_weight"),
        (
            [
                DEBUG,
                "--tokenizer_loss.lpips_path",
                "x",
                "--tokenizer_loss.perceptual_weight",
                "1",
                "--tokenizer.image_size",
                "8",
            ],
            "16 or more pixels",
        ),
        ([DEBUG, "--last_stage", "gpt"], "last-stage"),
        (
            [
                DEBUG,
                "--tokenizer_loss.perceptual_weight",
                "1",
                "--tokenizer_loss.lpips_path",
                "nowhere.safetensors",
            ],
            "nowhere.safetensors",
        ),
    ],
)
def test_train_command(arguments, words, capsys, tmp_path):
    import importlib.util

    if "--wandb_project" in arguments and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed here")
    line = fails(capsys, "train", *arguments, "--workdir", tmp_path / "run")
    assert words in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "get_config"),
        ("def get_config(): return 3", "RunConfig, got int"),
        ("def get_config(", "SyntaxError"),
        ("import nothing_like_this\n", "ModuleNotFoundError"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError"),
        ("def get_config(x): return x", "TypeError"),
    ],
)
def test_config_files(text, words, capsys, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(text)
    assert words in fails(capsys, "train", path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "cards"}, "data"),
        ({"seed": "1"}, "seed: expected int"),
        ({"seed": True}, "seed: expected int"),
        ({"sead": 1}, "did you mean seed"),
        ({"gpt": None}, "gpt"),
        ({"gpt": {"num_layers": 2.5}}, "num_layers: expected int"),
        ({"gpt": {"depth": 2}}, "depth"),
        ({"gpt": {"grid_shape": [1, 2, 3]}}, "grid_shape: expected 2 values"),
        ({"gpt": {"activation": "relu"}}, "expected one of"),
        ({"tokenizer": {"kind": "Unknown"}}, "expected one of PaletteConfig"),
        ({"tokenizer": {}}, "expected one of PaletteConfig"),
        ({"data": {"kind": "FolderConfig"}}, "path: expected a value, found none"),
    ],
)
def test_config_json(change, words):
    values = json.loads(json.dumps(to_dict(tiny_config()))) | change
    with pytest.raises(UserError, match=words):
        from_dict(RunConfig, values)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "DIR"),
        (["nowhere"], "expected the directory of a run or ORG/NAME"),
        (["{empty}"], "expected a checkpoint, found none"),
        (["{run}", "--labels", "101"], "0 to 100"),
        (["{run}", "--labels", "1,,2"], "expected whole numbers"),
        (["{run}", "--labels", "a"], "expected whole numbers"),
        (["{run}", "--labels", "9-7"], "expected at least one"),
        (["{run}", "--num-images", "0"], "at least 1"),
        (["{run}", "--num-images", "x"], "invalid int"),
        (["{run}", "--temperature", "-1"], "temperature"),
        (["{run}", "--temperature", "hot"], "invalid float"),
        (["{run}", "--top-k", "-1"], "top_k"),
        (["{run}", "--top-p", "0"], "top_p"),
        (["{run}", "--cfg-scale", "inf"], "cfg_scale"),
        (["{run}", "--image", "none.png"], "No such file"),
        (["{run}", "--image", "{text}"], "expected a picture"),
        (["{run}", "--image", "{empty}"], "expected a picture"),
        (["{run}", "--image", "{picture}", "--keep", "1"], "keep"),
        (["{run}", "--labels", "1", "--out", "x.gif"], "suffix .gif"),
        (["{run}", "--unknown", "1"], "unrecognized arguments"),
        (["{run}", "--seed", "1.5"], "invalid int"),
        (["{run}", "--seed", "9223372036854775808"], "seed"),
        (["{run}", "--labels", "0-99999999999"], "at most 1000000"),
    ],
)
def test_sample_command(arguments, words, tiny_run, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    places = {
        "run": tiny_run,
        "empty": tmp_path / "empty",
        "text": tmp_path / "text.png",
        "picture": tmp_path / "picture.png",
    }
    assert words in fails(capsys, "sample", *(arg.format(**places) for arg in arguments))


def test_unknown_command(capsys):
    assert "expected one of train, sample, encode" in fails(capsys, "paint")


@pytest.fixture
def copied_run(tiny_run, tmp_path):
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def checkpoint(run, stage="gpt"):
    return run / stage / "checkpoints" / "8"


def remove_array(run):
    """One array less in the stored tree: its name is gone from the metadata."""
    path = checkpoint(run) / "ema_params" / "_METADATA"
    metadata = json.loads(path.read_text())
    name = next(key for key in metadata["tree_metadata"] if "token_embedding" in key)
    del metadata["tree_metadata"][name]
    path.write_text(json.dumps(metadata))


def truncate_data(run):
    for path in (checkpoint(run) / "ema_params").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_data(run):
    for folder in list((checkpoint(run) / "ema_params").rglob("d")):
        shutil.rmtree(folder)


def remove_item(run):
    shutil.rmtree(checkpoint(run) / "ema_params")


def remove_metadata(run):
    (checkpoint(run) / "_CHECKPOINT_METADATA").unlink()


def spoil_metadata(run):
    (checkpoint(run) / "_CHECKPOINT_METADATA").write_text("{")


def remove_tokenizer(run):
    shutil.rmtree(run / "tokenizer")


def change_config(run):
    """A checkpoint whose config says another width than its arrays have."""
    path = checkpoint(run) / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace('"embed_dim": 16', '"embed_dim": 32'))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_array, "token_embedding"),
        (truncate_data, "cannot be read"),
        (remove_data, "cannot be read"),
        (remove_item, "ema_params"),
        (remove_metadata, "checkpoints"),
        (spoil_metadata, "expected a checkpoint with its config"),
        (remove_tokenizer, "expected a checkpoint, found none"),
        (change_config, "expected blocks.attention.key.kernel (2, 32, 2, 16), got (2, 16, 2, 8)"),
    ],
)
# Orbax closes its event loop while failed reads still report to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_checkpoints(damage, words, copied_run, capsys):
    damage(copied_run)
    assert words in fails(capsys, "sample", copied_run, "--labels", "1")


def spoil_header(tokens):
    (tokens / "header.json").write_text("{")


def remove_header(tokens):
    (tokens / "header.json").unlink()


def shorten_shard(tokens):
    np.save(tokens / "tokens-00000.npy", np.load(tokens / "tokens-00000.npy")[:-1])


def remove_shard(tokens):
    (tokens / "labels-00000.npy").unlink()


def truncate_shard(tokens):
    path = tokens / "tokens-00000.npy"
    path.write_bytes(path.read_bytes()[:50])


def exchange_tokens(tokens):
    shard = np.load(tokens / "tokens-00000.npy")
    np.save(tokens / "tokens-00000.npy", shard[::-1])


def other_tokenizer(tokens):
    header = json.loads((tokens / "header.json").read_text())
    (tokens / "header.json").write_text(json.dumps(header | {"tokenizer_hash": "0"}))


def other_preprocessing(tokens):
    header = json.loads((tokens / "header.json").read_text())
    header["preprocessing"]["crop"] = "center"
    (tokens / "header.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (spoil_header, "damaged file"),
        (remove_header, "expected encoded tokens"),
        (shorten_shard, "expected 64 rows, got 63"),
        (remove_shard, "expected an array"),
        (truncate_shard, "expected an array"),
        (exchange_tokens, "the tokens beside it are others"),
        (other_tokenizer, "tokenizer_hash"),
        (other_preprocessing, "preprocessing"),
    ],
)
def test_damaged_tokens(damage, words, copied_run, capsys):
    damage(copied_run / "tokens" / "train")
    assert words in fails(capsys, "encode", DEBUG, "--workdir", copied_run)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_json(name, text, copied_run, capsys):
    (copied_run / name).write_text(text)
    assert name in fails(capsys, "train", DEBUG, "--workdir", copied_run)


def test_tokens_that_the_tokenizer_does_not_give(copied_run):
    """Header and hash agree, but the tokenizer gives other tokens for the pictures kept."""
    directory = copied_run / "tokens" / "train"

    def other(images):
        return load(copied_run).encode(images) + 1

    with pytest.raises(UserError, match="expected the tokenizer to give the stored tokens"):
        TokenSource(directory, expected={}, encode=other)


def test_a_folder_of_broken_pictures_stops_with_the_list(capsys, tmp_path):
    for i in range(30):
        (tmp_path / "data" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "cat" / f"{i}.png").write_bytes(b"\x89PNG damaged")
    config = tmp_path / "config.py"
    config.write_text(
        "import dataclasses\n"
        "from igpt_jax.testing import tiny_config\n"
        "from igpt_jax.data.sources import FolderConfig\n"
        "def get_config():\n"
        f"    data = FolderConfig({str(tmp_path / 'data')!r}, validation_per_class=10)\n"
        "    gpt = dataclasses.replace(tiny_config().gpt, num_classes=0, class_factors=())\n"
        "    return tiny_config(data=data, gpt=gpt)\n"
    )
    assert main(["train", str(config), "--workdir", str(tmp_path / "run")]) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert "cat/" in errors[0]

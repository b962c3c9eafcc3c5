"""Every example of README and docs works as printed.

Python runs as it stands, and so do commands on runs, of which the tests have tiny ones. Where a
command trains for minutes or needs published files, it runs up to that point: its config is built,
its arguments are read.
"""

import inspect
import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from igpt_jax import cli
from igpt_jax.interop.conversion import LAYOUTS
from igpt_jax.models.gpt import GPT
from igpt_jax.models.presets import llamagen

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("python ", "igpt ", "make ", "pip ", "bash ", "curl ", "IGPT_DATA=", "time ")

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


class Reached(Exception):
    """The part of a command that takes long, or needs what is not here."""


def python_blocks(page):
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == "python"]


def commands(page):
    for kind, text in BLOCK.findall(page.read_text()):
        if kind in ("", "sh", "bash"):
            for line in text.splitlines():
                if line.startswith(PROGRAMS):
                    yield line


@pytest.fixture(scope="module")
def home(tiny_run, asked_run, video_run, tmp_path_factory):
    """A folder with the runs and pictures that the examples name."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "runs").mkdir()
    runs = {
        "demo": tiny_run,
        "cards_text": asked_run,
        "cards_inpaint": asked_run,
        "cifar10_colour": asked_run,
        "cards_video": video_run,
    }
    for name, directory in runs.items():
        (folder / "runs" / name).symlink_to(directory)
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    picture = Image.fromarray(np.full((32, 32, 3), 200, np.uint8))
    for name in ("card.png", "half.png", "first.png", "photo.jpg"):
        picture.save(folder / name)
    mask = Image.fromarray(np.uint8([[0, 255]] * 2)).resize((32, 32), Image.Resampling.NEAREST)
    for name in ("mask.png", "m.png"):
        mask.save(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python(page, home, monkeypatch):
    if page.name == "serving.md":
        pytest.skip("tests/serving runs it, with a server")
    monkeypatch.chdir(home)
    names = {}
    if page.name == "published.md":
        names["state_dict"] = llamagen_zeros()
    for block in python_blocks(page):
        if "{" + '"params": params' + "}" in block:  # a large model, in shapes alone
            tokens, labels = jnp.zeros((2, 256), jnp.int32), jnp.zeros(2, jnp.int32)
            shapes = jax.eval_shape(
                GPT(llamagen("B")).init, jax.random.key(0), tokens[:, :-1], labels
            )["params"]

            def run(params, block=block, tokens=tokens, labels=labels):
                inside = {"params": params, "tokens": tokens, "labels": labels}
                exec(block, inside)
                return inside["logits"]

            assert jax.eval_shape(run, shapes).shape == (2, 256, 16_384)
            continue
        exec(block, names)


def test_the_three_lines(home, monkeypatch):
    monkeypatch.chdir(home)
    first = python_blocks(REPOSITORY / "README.md")[0]
    assert len([line for line in first.splitlines() if line]) == 3
    names = {}
    exec(first, names)
    assert names["images"].dtype == np.uint8
    assert names["images"].shape == (2, 32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [line for page in PAGES for line in dict.fromkeys(commands(page))], ids=str
)
def test_command(line, home, tmp_path, monkeypatch, capsys):
    words = shlex.split(line, comments=True)
    if "=" in words[0]:
        words = words[1:]
    words = words[1:] if words[0] == "time" else words
    monkeypatch.chdir(home)
    match words:
        case ["make", *targets]:
            makefile = (REPOSITORY / "Makefile").read_text()
            assert all(re.search(f"^{target}:", makefile, re.MULTILINE) for target in targets)
        case ["pip", "install", what]:
            extra = re.search(r"\[(\w+)\]", what)
            assert extra
            assert f"\n{extra[1]} = [" in (REPOSITORY / "pyproject.toml").read_text()
        case ["bash", script]:
            assert (REPOSITORY / script).is_file()
        case ["python", script, *arguments] if script.startswith("benchmarks/"):
            source = (REPOSITORY / script).read_text()
            for option in (word for word in arguments if word.startswith("--")):
                assert f'"{option}"' in source
        case ["python", script, *arguments]:
            assert (REPOSITORY / script).is_file()
            runs_well([script.removesuffix(".py"), *arguments], home, monkeypatch, capsys)
        case ["curl", *_]:
            assert page_of(line) == "serving.md"  # tests/serving asks a server all of them
        case ["igpt", *arguments]:
            runs_well(arguments, home, monkeypatch, capsys)
        case _:
            pytest.fail(f"not known how to check: {line}")


def page_of(line):
    return next(page.name for page in PAGES if line in page.read_text())


def runs_well(arguments, home, monkeypatch, capsys):
    """Runs a command of the package, up to what takes long or is not here."""
    stops_at(monkeypatch, "igpt_jax.run", "run")
    stops_at(monkeypatch, "igpt_jax.baselines.run", "run_baseline")
    stops_at(monkeypatch, "igpt_jax.finetuning.run", "run_finetuning")
    stops_at(monkeypatch, "igpt_jax.measuring.comparison", "compare")
    stops_at(monkeypatch, "igpt_jax.interop.importing", "import_part")
    stops_at(monkeypatch, "igpt_jax.serving.commands", "serve")
    stops_at(monkeypatch, "igpt_jax.serving.commands", "keys")
    stops_at(monkeypatch, "igpt_jax.planning.plan", "plan")
    stops_at(monkeypatch, "igpt_jax.planning.sweep", "sweep")
    if any("://" in word for word in arguments):  # a bucket
        stops_at(monkeypatch, "igpt_jax.mirror", "working_directory")
        stops_at(monkeypatch, "igpt_jax.mirror", "find_directory")
    is_here = any((home / word).is_dir() and "runs/" in word for word in arguments)
    if not is_here:
        stops_at(monkeypatch, "igpt_jax.measuring.tokenizer", "evaluate")
        stops_at(monkeypatch, "igpt_jax.measuring.answers", "evaluate_answers")
        stops_at(monkeypatch, "igpt_jax.measuring.probe", "probe")
        stops_at(monkeypatch, "igpt_jax.measuring.probe", "predict")
        stops_at(monkeypatch, "igpt_jax.measuring.generation", "evaluate_generation")
    if not is_here or "--push" in arguments:
        stops_at(monkeypatch, "igpt_jax.interop.exporting", "export")
    if not is_here:  # the last: a module that is imported later would keep what stands for it
        stops_at(monkeypatch, "igpt_jax.stored", "load")
    if "--to" in arguments and (home / arguments[arguments.index("--to") + 1]).is_dir():
        arguments = [*arguments, "--to", f"{arguments[arguments.index('--to') + 1]}-again"]
    try:
        code = cli.main(arguments)
    except Reached:
        return
    assert code == 0, capsys.readouterr().err


def llamagen_zeros():
    """A state dict of LlamaGen-B's shapes."""
    shapes = {
        "tok_embeddings.weight": (16_384, 768),
        "layers.0.feed_forward.w1.weight": (2_048, 768),
        "layers.11.feed_forward.w1.weight": (2_048, 768),
        "cls_embedding.embedding_table.weight": (1_001, 768),
    }
    some = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    layout = LAYOUTS["llamagen-gpt"](some, grid_shape=(24, 24))
    return {name: np.zeros(shape, np.float32) for name, shape in layout.shapes.items()}


def stops_at(monkeypatch, module, name):
    """Replaces a function by one that takes the same arguments and goes no further."""
    __import__(module)
    signature = inspect.signature(getattr(sys.modules[module], name))

    def reached(*args, **kwargs):
        signature.bind(*args, **kwargs)
        raise Reached

    monkeypatch.setattr(sys.modules[module], name, reached)

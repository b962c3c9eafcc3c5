"""The notebook: what is stored of it, and a whole run on models that train in seconds."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "sample.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def sources(cells, kind):
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == kind}


def test_it_is_short_and_stored_without_outputs(cells):
    assert len(cells) < 40
    assert len({cell["id"] for cell in cells}) == len(cells)
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert codes
    for cell in codes:
        assert cell["outputs"] == [], cell["id"]
        assert cell["execution_count"] is None, cell["id"]
        assert cell["metadata"] == {}, cell["id"]


def test_every_code_cell_is_python(cells):
    for name, source in sources(cells, "code").items():
        assert ast.parse(source).body, name


def test_it_names_no_absolute_path(cells):
    for kind in ("code", "markdown"):
        for name, source in sources(cells, kind).items():
            assert not re.search(r"(?<![\w.:/>)])(/|~/|[A-Z]:\\)\w+", source), name


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The name of a kernel of this very Python, which keeps its files in a temporary directory."""
    specification = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "this Python",
        "language": "python",
    }
    folder = tmp_path / "jupyter" / "kernels" / "this_python"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("IGPT_NOTEBOOK_QUICK", "1")
    return folder.name


def run_notebook(kernel, directory, changes):
    """Outputs of each code cell of a whole run; `changes` are made to the cell `model`."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    model = next(cell for cell in notebook.cells if cell.id == "model")
    for before, after in changes.items():
        assert model.source.count(before) == 1
        model.source = model.source.replace(before, after)
    count = "import matplotlib.pyplot as plt; print(len(plt.get_fignums()), 'figures open')"
    notebook.cells.append(nbformat.v4.new_code_cell(count, id="figures"))
    directory.mkdir()
    client = NotebookClient(
        notebook,
        kernel_name=kernel,
        timeout=300,
        allow_errors=True,
        resources={"metadata": {"path": str(directory)}},
    )
    client.execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def check_run(outputs, num_images):
    every = [output for of_cell in outputs.values() for output in of_cell]
    errors = ["\n".join(o.traceback) for o in every if o.output_type == "error"]
    assert not errors, errors[0]
    pictures = [o for o in every if "image/png" in o.get("data", {})]
    assert len(pictures) == num_images
    assert "Warning" not in printed(every)
    assert printed(outputs["figures"]) == "0 figures open\n"
    kept = re.search(r"known tokens unchanged: (\d+) of (\d+)\n", printed(outputs["inpaint-check"]))
    assert kept is not None
    assert kept[1] == kept[2]
    return int(kept[1])


@pytest.mark.slow
def test_a_whole_run_on_a_model_that_it_makes(kernel, tmp_path):
    outputs = run_notebook(kernel, tmp_path / "run", {})
    num_kept = check_run(outputs, num_images=7)
    assert num_kept == 3 * 32 + 6 * 48  # of 64 tokens, without the left half, without the centre
    assert "validation: " in printed(outputs["load"])
    assert (tmp_path / "run/runs/notebook-quick/result.json").is_file()


@pytest.mark.slow
def test_a_whole_run_on_a_model_of_another_run(kernel, tiny_run, tmp_path):
    outputs = run_notebook(kernel, tmp_path / "run", {"MODEL = None": f"MODEL = {str(tiny_run)!r}"})
    num_kept = check_run(outputs, num_images=7)
    assert num_kept == 3 * 8 + 6 * 12
    assert "32 x 32 pixels, 16 tokens each, 101 classes" in printed(outputs["load"])
    assert not list((tmp_path / "run").iterdir())  # nothing is trained


@pytest.mark.slow
def test_a_whole_run_on_a_model_without_its_curves(kernel, tiny_run, tmp_path):
    from igpt_jax.interop.exporting import export

    export(tiny_run, tmp_path / "exported")
    changes = {
        "MODEL = None": f"MODEL = {str(tmp_path / 'exported')!r}",
        "CLASSES = None": "CLASSES = [7, 42, 99]",
    }
    outputs = run_notebook(kernel, tmp_path / "run", changes)
    check_run(outputs, num_images=6)
    assert printed(outputs["loss"]).startswith("no curves")

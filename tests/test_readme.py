"""What the README shows works as printed."""

import re
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def at_home(tiny_run, tmp_path, monkeypatch):
    """A folder in which `runs/demo` is a trained run."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)


def test_the_three_lines(at_home):
    first = BLOCKS[0].strip().splitlines()
    assert len([line for line in first if line]) == 3
    names = {}
    exec(BLOCKS[0], names)
    assert names["images"].dtype == np.uint8
    assert names["images"].shape == (2, 32, 32, 3)


def test_the_calls_of_a_model(at_home):
    names = {}
    for block in BLOCKS[:2]:
        exec(block, names)
    assert names["tokens"].shape == (2, 16)
    assert names["nats"].shape == (2,)

from pathlib import Path

import pytest

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError


def test_variables_and_home_are_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("IGPT_TEST_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expand_path("$IGPT_TEST_DATA/a.zip") == tmp_path / "a.zip"
    assert expand_path("${IGPT_TEST_DATA}/a") == tmp_path / "a"
    assert expand_path("~/b") == Path("/home/somebody/b")
    assert expand_path(tmp_path) == tmp_path


@pytest.mark.parametrize("written", ["$IGPT_TEST_UNSET/a", "${IGPT_TEST_UNSET}/a"])
def test_a_missing_variable_is_named(monkeypatch, written):
    monkeypatch.delenv("IGPT_TEST_UNSET", raising=False)
    with pytest.raises(UserError, match=r"IGPT_TEST_UNSET to be set.*export IGPT_TEST_UNSET="):
        expand_path(written)

"""Curves as SVG, read back as XML."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpt_jax.evaluation.curves import curves_svg, number, ticks

SVG = "{http://www.w3.org/2000/svg}"


def drawn(**curves):
    root = ET.fromstring(curves_svg("loss <of> a & b", curves))
    lines = {}
    for group in root.iter(f"{SVG}g"):
        text = group.find(f"{SVG}polyline").get("points").split()
        lines[group.find(f"{SVG}title").text] = np.array([p.split(",") for p in text], float)
    return root, lines


def test_points_lie_where_they_belong():
    root, lines = drawn(training=[(0, 3.0), (100, 2.0), (300, 1.0)], validation=[(300, 1.5)])
    assert root.find(f"{SVG}title").text == "loss <of> a & b"
    x, y = lines["training"].T
    assert np.diff(x)[1] == pytest.approx(2 * np.diff(x)[0], abs=0.2)
    assert np.diff(y)[1] == pytest.approx(np.diff(y)[0], abs=2)  # up is down in SVG
    assert (np.diff(y) > 0).all()
    assert lines["validation"][0, 0] == pytest.approx(x[-1])
    assert y[1] < lines["validation"][0, 1] < y[2]
    width, height = map(float, root.get("viewBox").split()[2:])
    assert (x >= 0).all()
    assert (x <= width).all()
    assert (y >= 0).all()
    assert (y <= height).all()


def test_a_high_start_does_not_flatten_the_rest():
    losses = np.concatenate([[1e6], np.linspace(2, 1, 99)])
    _, lines = drawn(training=list(enumerate(losses.tolist())))
    y = lines["training"][:, 1]
    assert y[-1] - y[1] > 100
    assert y[0] == pytest.approx(y.min())


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(5, 2.0), (6, 2.0)], [(0, np.nan), (1, 3.0)]])
def test_few_constant_and_broken_points_are_drawn(points):
    text = curves_svg("loss", {"training": points, "validation": points})
    ET.fromstring(text)
    assert "nan" not in text
    assert text.count("<circle") >= sum(np.isfinite(y) for _, y in points)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_few_and_within(low, span):
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)
    if span > 1e-6 * abs(low):  # else floats themselves are no finer
        assert len(found) >= 2


def test_numbers_for_people():
    values = (0, 3, 12345.0, 0.123456, 1234.56, -2.5, 1e-7)
    told = ["0", "3", "12,345", "0.1235", "1,234.6", "-2.5", "1e-07"]
    assert [number(value) for value in values] == told

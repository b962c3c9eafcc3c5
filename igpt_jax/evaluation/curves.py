"""Curves as SVG, to stand in a page without any file beside it."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np

_WIDTH: Final = 480
_HEIGHT: Final = 240
_LEFT: Final = 58
_RIGHT: Final = 14
_TOP: Final = 12
_BOTTOM: Final = 34
_NUM_TICKS: Final = 5
_SHOWN_SHARE: Final = 0.98  # of the values; what training starts from would flatten the rest

Points = Sequence[tuple[float, float]]


def curves_svg(title: str, curves: Mapping[str, Points]) -> str:
    """Draws curves over the step; values that are not finite are left out.

    Args:
        title: for who cannot see it.
        curves: points by name; the first is drawn as a line, those after it with dots. The style
            sheet of the page colours `.curve-0`, `.curve-1`, ...

    Returns:
        An `<svg>` element that grows and shrinks with its place.
    """
    kept = {
        name: [point for point in points if all(map(math.isfinite, point))]
        for name, points in curves.items()
    }
    frame = _Frame(*_ranges(list(kept.values())))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
        *_axes(frame),
    ]
    for index, (name, points) in enumerate(kept.items()):
        places = [frame.place(*point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        has_dots = index > 0 or len(places) == 1
        dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places if has_dots]
        parts += [
            f'<g class="curve-{index}"><title>{escape(name)}</title>',
            f'<polyline points="{line}"/>',
            *dots,
            "</g>",
        ]
    return "".join([*parts, "</svg>"])


class _Frame(NamedTuple):
    """What the axes show, from and to."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; what is beyond the top or bottom lies on it."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = min(max((y - self.y[0]) / (self.y[1] - self.y[0]), 0.0), 1.0)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


def _axes(frame: _Frame) -> list[str]:
    """Lines and numbers of both axes."""
    right, parts = _WIDTH - _RIGHT, []
    for tick in ticks(*frame.y):
        _, y = frame.place(frame.x[0], tick)
        parts += [
            f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>',
        ]
    for tick in ticks(*frame.x):
        x, _ = frame.place(tick, frame.y[0])
        middle = f'x="{x:.1f}" y="{_HEIGHT - 16}" text-anchor="middle"'
        parts.append(f"<text {middle}>{number(tick)}</text>")
    return [*parts, f'<text x="{right}" y="{_HEIGHT - 3}" text-anchor="end">step</text>']


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / _NUM_TICKS
    exponent = math.floor(math.log10(raw))
    power = 10.0**exponent
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    found = [round(i * step, max(0, -exponent)) for i in range(first, last + 1)]
    slack = 1e-9 * step
    return [tick for tick in found if low - slack <= tick <= high + slack]


def number(value: float) -> str:
    """A number for people, with four digits; thousands have commas."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ranges(curves: Sequence[Points]) -> tuple[tuple[float, float], tuple[float, float]]:
    """What both axes show."""
    xs = [x for points in curves for x, _ in points] or [0.0]
    ys = [y for points in curves for _, y in points] or [0.0]
    last = [points[-1][1] for points in curves if points]
    top, bottom = max([float(np.quantile(ys, _SHOWN_SHARE)), *last]), min(ys)
    room = (top - bottom) * 0.06 or abs(top) * 0.1 or 1.0
    right = max(xs) if max(xs) > min(xs) else min(xs) + 1
    return (min(xs), right), (bottom - room, top + room)

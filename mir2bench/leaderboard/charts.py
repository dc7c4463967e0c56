"""Geometry of the site's charts: numbers become SVG coordinates, templates draw and escape them.

Charts hold no colors: a series has a class, and the style sheet colors it for light and dark pages. Dashes tell the
series apart where colors do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 680, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 12, 46
SERIES = 8
"""How many series the style sheet can tell apart."""


@dataclass(frozen=True)
class Line:
    """A series: its name, (x, y) points, and (low, high) of each point's interval if there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    bounds: Sequence[tuple[float, float]] = ()
    step: bool = False
    note: str = ""


class Axis:
    """A linear axis from data to pixels, with round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, ticks: int, *, tight: bool = False) -> None:
        from matplotlib.ticker import MaxNLocator

        if not high > low:
            low, high = low - 0.5, high + 0.5
        values = [float(v) for v in MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
        if not tight:
            low, high = values[0], values[-1]
        self._low, self._high, self._start, self._end = low, high, start, end
        slack = 1e-9 * (high - low)
        self.ticks = [(self(v), tick_text(v)) for v in values if low - slack <= v <= high + slack]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1) + 0.0


def tick_text(value: float) -> str:
    """Return a tick's label: 300000 becomes "300k"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return signed(f"{value / size:g}{unit}")
    return signed(f"{round(value, 10):g}")


def signed(text: str) -> str:
    """Return a number's text with a true minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    levels: Sequence[tuple[str, float]] = (),
) -> dict[str, Any] | None:
    """Return what the chart template draws, or None without data.

    Args:
        lines: the series, at most `SERIES`.
        x_label, y_label: axis titles.
        x_range, y_range: fixed limits; by default those of the data.
        levels: named horizontal lines.
    """
    lines = [line for line in lines if line.points][:SERIES]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [b for line in lines for pair in line.bounds for b in pair]
    ys += [level for _, level in levels]
    x_axis = Axis(*(x_range or (min(xs), max(xs))), _LEFT, WIDTH - _RIGHT, 7, tight=True)
    y_axis = Axis(*(y_range or (min(ys), max(ys))), HEIGHT - _BOTTOM, _TOP, 6, tight=y_range is not None)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "plot": {"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM},
        "x_ticks": x_axis.ticks,
        "y_ticks": y_axis.ticks,
        "x_label": x_label,
        "y_label": y_label,
        "levels": [{"name": name, "y": y_axis(level)} for name, level in levels],
        "series": [
            {
                "name": line.name,
                "note": line.note,
                "path": _path([(x_axis(x), y_axis(y)) for x, y in line.points], line.step),
                "band": _band(line, x_axis, y_axis),
                "dots": [(x_axis(x), y_axis(y)) for x, y in line.points]
                if not line.step and len(line.points) < 25
                else [],
            }
            for line in lines
        ],
    }


def _path(points: Sequence[tuple[float, float]], step: bool) -> str:
    (x, y), *rest = points
    parts = [f"M{x:g} {y:g}"]
    for x, y in rest:
        parts.append(f"H{x:g}V{y:g}" if step else f"L{x:g} {y:g}")
    return "".join(parts)


def _band(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    if not line.bounds:
        return ""
    xs = [x_axis(x) for x, _ in line.points]
    upper = [(x, y_axis(high)) for x, (_, high) in zip(xs, line.bounds, strict=True)]
    lower = [(x, y_axis(low)) for x, (low, _) in zip(xs, line.bounds, strict=True)]
    return _path([*upper, *reversed(lower)], False) + "Z"


def profile(values: np.ndarray) -> list[tuple[float, float]]:
    """Return the performance profile of normalized scores: (threshold, share of runs above it), 0 to 1.

    Only the thresholds at which the share changes are given; draw it in steps.
    """
    scores = np.sort(values[~np.isnan(values)])
    points = [(0.0, float((scores > 0).mean()))]
    for score in np.unique(scores):
        if 0 < score < 1:
            points.append((float(score), float((scores > score).mean())))
    return [*points, (1.0, float((scores > 1).mean()))]


def gauge(value: float, interval: Sequence[float] | None) -> dict[str, Any]:
    """Return the coordinates of the small interval bar in a table: 0 to 100 from floor to ceiling."""

    def place(share: float) -> float:
        return round(100 * min(1.0, max(0.0, share)), 1) + 0.0

    low, high = interval or (value, value)
    return {"value": place(value), "low": place(low), "size": max(round(place(high) - place(low), 1), 0.8)}

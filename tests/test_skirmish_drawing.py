"""The picture of a battle: colors where units stand, bars as long as their health, shots, and the header."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import mir2bench
from mir2bench.engines import skirmish_drawing as drawing

VARIANT = mir2bench.spec("Skirmish-4m_vs_3m-adv1-v0")
PHI = np.array([0, 1, 0, 0])
ALLIES = [(4.0, 20.0, 45.0, 0.0), (8.0, 12.0, 45.0, 0.0), (12.0, 20.0, 9.0, 0.0), (16.0, 12.0, 0.0, 0.0)]
ENEMIES = [(20.0, 20.0, 45.0, 0.0), (24.0, 12.0, 30.0, 0.0), (28.0, 20.0, 0.0, 0.0)]


def snapshot(**changes: Any) -> dict[str, np.ndarray]:
    state = {"allies": ALLIES, "enemies": ENEMIES, "shots": np.zeros((0, 4))}
    return {name: np.asarray(value, dtype=float) for name, value in {**state, **changes}.items()}


def colors(picture: np.ndarray, x: float, y: float, reach: int = 6) -> set[tuple[int, ...]]:
    """Return the colors around a place in cells."""
    column, row = round(x * 20), round((24 - y) * 20) + 36
    part = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return {tuple(color) for color in part.reshape(-1, 3).tolist()}


def test_units_stand_where_they_are_in_their_colors() -> None:
    picture = drawing.draw([snapshot()], PHI, VARIANT)
    assert picture.shape == (368, 640, 3)
    assert picture.dtype == np.uint8
    every = {drawing._ALLY, drawing._ADVERSARY, drawing._ENEMY}
    for unit, color in [(ALLIES[0], drawing._ALLY), (ALLIES[1], drawing._ADVERSARY), (ENEMIES[0], drawing._ENEMY)]:
        assert colors(picture, unit[0], unit[1]) & every == {color}
    for dead in (ALLIES[3], ENEMIES[2]):
        assert not colors(picture, dead[0], dead[1]) & every
        assert len(colors(picture, dead[0], dead[1])) > 1  # a faded cross
    assert colors(picture, 4.0, 10.0) == {drawing._FLOOR, drawing._GRID}


def test_bars_are_as_long_as_what_is_left_of_health() -> None:
    picture = drawing.draw([snapshot()], PHI, VARIANT)
    good = (picture == np.array(drawing._GOOD)).all(axis=-1)

    def length(unit: tuple[float, ...]) -> int:
        column, row = round(unit[0] * 20), round((24 - unit[1]) * 20) + 36
        return int(good[row - 24 : row - 6, column - 14 : column + 15].any(axis=0).sum())

    whole = length(ALLIES[0])
    assert whole >= 16
    assert length(ALLIES[2]) == pytest.approx(0.2 * whole, abs=1.5)
    assert length(ENEMIES[1]) == pytest.approx(whole * 30 / 45, abs=1.5)
    assert length(ALLIES[3]) == 0


def test_shots_go_from_shooter_to_target() -> None:
    without = drawing.draw([snapshot()], PHI, VARIANT)
    with_shot = drawing.draw([snapshot(shots=[(4.0, 16.0, 28.0, 16.0)])], PHI, VARIANT)
    changed = (without != with_shot).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert set(range(80, 561)) <= set(columns)
    assert np.abs(rows - (8 * 20 + 36)).max() <= 4


def test_the_header_counts() -> None:
    first, second = (drawing.draw([snapshot()] * k, PHI, VARIANT) for k in (1, 2))
    assert (first[:34] != second[:34]).any()
    assert np.array_equal(first[38:], second[38:])
    fewer = drawing.draw([snapshot(enemies=[*ENEMIES[:1], (24.0, 12.0, 0.0, 0.0), ENEMIES[2]])], PHI, VARIANT)
    assert (first[:34] != fewer[:34]).any()


def test_trajectories_end_in_a_star_or_in_death() -> None:
    later = snapshot(
        allies=[(5.0, 20.0, 45.0, 0.0), (9.0, 12.0, 0.0, 0.0), *ALLIES[2:]],
        enemies=[(19.0, 20.0, 5.0, 0.0), *ENEMIES[1:]],
    )
    axes = Figure().add_subplot()
    living = snapshot(allies=[*ALLIES[:3], (16.0, 12.0, 45.0, 0.0)], enemies=[*ENEMIES[:2], (28.0, 20.0, 1.0, 0.0)])
    drawing.draw_trajectories([living, later], PHI, VARIANT, axes)
    ends = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): line.get_marker()
        for line in axes.lines
        if line.get_marker() in ("*", "X") and len(line.get_xdata())
    }
    assert ends[5.0, 20.0] == "*"  # lived on
    assert ends[8.0, 12.0] == "X"  # where it was last seen alive
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["enemy", "defender", "adversary", "start", "end", "death"]

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


def pixel(x: float, y: float) -> tuple[int, int]:
    """The row and column of a place in cells."""
    return round(64 + (24 - y) * 23), round(16 + x * 23)


def colors(picture: np.ndarray, x: float, y: float, reach: int = 6) -> set[tuple[int, ...]]:
    """Return the colors around a place in cells."""
    row, column = pixel(x, y)
    part = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return {tuple(color) for color in part.reshape(-1, 3).tolist()}


def test_units_stand_where_they_are_in_their_colors() -> None:
    picture = drawing.draw([snapshot()], PHI, VARIANT)
    assert picture.shape == (480, 768, 3)
    assert picture.dtype == np.uint8
    every = {drawing._ALLY, drawing._ADVERSARY, drawing._ENEMY}
    for unit, color in [(ALLIES[0], drawing._ALLY), (ALLIES[1], drawing._ADVERSARY), (ENEMIES[0], drawing._ENEMY)]:
        assert colors(picture, unit[0], unit[1]) & every == {color}
    for dead in (ALLIES[3], ENEMIES[2]):
        assert not colors(picture, dead[0], dead[1]) & every
        assert len(colors(picture, dead[0], dead[1])) > 1  # a faded cross
    assert colors(picture, 4.0, 10.0) == {drawing._FLOOR, drawing._GRID}


def test_a_dead_adversary_is_a_red_cross() -> None:
    fallen = snapshot(allies=[(x, y, 0.0, 0.0) for x, y, *_ in ALLIES])
    picture = drawing.draw([fallen], PHI, VARIANT)
    for unit, guilty in zip(ALLIES, PHI, strict=True):
        row, column = pixel(unit[0], unit[1])
        red, green, blue = picture[row, column].astype(int)
        assert (red - green > 80 and red - blue > 80) == guilty


def test_adversaries_wear_a_ring() -> None:
    picture = drawing.draw([snapshot()], PHI, VARIANT)
    for unit, color in ((ALLIES[0], drawing._FLOOR), (ALLIES[1], drawing._ADVERSARY)):
        row, column = pixel(unit[0], unit[1])
        assert np.abs(picture[row - 12, column].astype(int) - color).max() < 40


def test_bars_are_as_long_as_what_is_left_of_health() -> None:
    picture = drawing.draw([snapshot()], PHI, VARIANT)
    good = np.abs(picture.astype(int) - drawing._HEALTH).max(axis=-1) < 40

    def length(unit: tuple[float, ...]) -> int:
        row, column = pixel(unit[0], unit[1])
        return int(good[row - 9 : row + 10, column - 9 : column + 10].any(axis=0).sum())

    whole = length(ALLIES[0])
    assert whole >= 9
    assert length(ALLIES[2]) == pytest.approx(0.2 * whole, abs=1.5)
    assert length(ENEMIES[1]) == pytest.approx(whole * 30 / 45, abs=1.5)
    assert length(ALLIES[3]) == 0


def test_shots_go_from_shooter_to_target_in_the_color_of_their_side() -> None:
    without = drawing.draw([snapshot()], PHI, VARIANT)
    for shot, loses in (((4.0, 20.0, 24.0, 12.0), 0), ((24.0, 12.0, 4.0, 20.0), 2)):  # blue lacks red, orange blue
        changed = drawing.draw([snapshot(shots=[shot])], PHI, VARIANT)
        rows, columns = np.nonzero((without != changed).any(axis=-1))
        between = np.arange(pixel(5, 0)[1], pixel(23, 0)[1])
        assert set(between) <= set(columns)
        middle = np.abs(columns - pixel(14, 0)[1]) <= 2
        assert np.abs(rows[middle] - pixel(0, 16)[0]).max() <= 4
        assert changed[rows[middle], columns[middle]].min(axis=0).argmin() == loses


def test_trails_show_the_last_steps() -> None:
    path = [snapshot(allies=[(2.0 + t, 17.0, 45.0, 0.0), *ALLIES[1:]]) for t in range(12)]
    picture = drawing.draw(path, PHI, VARIANT)
    row = pixel(0, 17)[0]
    at = [int(picture[row, pixel(x, 0)[1], 0]) for x in (11.5, 9.5, 7.5, 5.5)]
    assert at[0] < at[1] < at[2] < at[3] == 255  # red grows as blue fades into white


def test_the_whole_map_can_be_drawn() -> None:
    allies = [(4.0, 28.0, 45.0, 0.0), *ALLIES[1:]]
    picture = drawing.draw_open([snapshot(allies=allies)], PHI, VARIANT)
    assert picture.shape == (848, 768, 3)
    assert drawing._ALLY in {tuple(color) for color in picture[64 + 4 * 23 - 6 : 64 + 4 * 23 + 6, 108].tolist()}


def test_the_header_counts() -> None:
    first, second = (drawing.draw([snapshot()] * k, PHI, VARIANT) for k in (1, 2))
    assert (first[:48] != second[:48]).any()
    assert np.array_equal(first[48:], second[48:])
    fewer = drawing.draw([snapshot(enemies=[*ENEMIES[:1], (24.0, 12.0, 0.0, 0.0), ENEMIES[2]])], PHI, VARIANT)
    assert (first[:48] != fewer[:48]).any()


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
        if line.get_marker() in ("*", "x") and len(line.get_xdata())
    }
    assert ends[5.0, 20.0] == "*"  # lived on
    assert ends[9.0, 12.0] == "x"  # where it fell
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["enemy", "defender", "adversary", "start", "end", "death"]

"""Pictures of a battle of marines: units with their numbers, health bars and shots, adversaries red. Needs no screen.

Whole trajectories are drawn in the paper's colors instead: defenders orange, adversaries blue, enemies grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mir2bench.engines.skirmish_units import SIZE, STRIP, unit_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mir2bench.registration import VariantSpec

    Color = tuple[int, int, int]

WIDTH, HEIGHT, OPEN_HEIGHT = 768, 480, 848  # pixels; multiples of 16, which video encoders want
PIXELS = 23  # per cell
MARGIN = 16  # pixels left and right of the floor, so that units at the edge are whole
_HEADER, _FOOTER = 64, 48  # pixels above and below it
_SCALE = 2  # drawn this much larger and then reduced, which smooths the edges
_TRAIL = 6  # steps until a trail has faded
_MARINE = unit_type("marine")

_PAPER, _FLOOR, _GRID = (217, 221, 226), (255, 255, 255), (240, 242, 245)
_WALL, _TEXT, _MUTED, _FADED = (52, 58, 64), (33, 37, 41), (90, 98, 104), (205, 210, 215)
# Told apart with any common color blindness: by hue or by brightness. Adversaries also wear a ring.
_ALLY, _ENEMY, _ADVERSARY = (0, 114, 178), (240, 175, 40), (200, 30, 40)
_HEALTH = (150, 240, 130)
_LEGEND = (("ally", _ALLY), ("adversary", _ADVERSARY), ("enemy", _ENEMY))


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec) -> np.ndarray:
    """Draw the last snapshot of a battle on the walkable strip of the map.

    Args:
        history: snapshots {"allies": (N, 4), "enemies": (M, 4), "shots": (K, 4)} of this episode since its start; the
            last is now. Rows of units are x, y, health, cooldown; rows of shots are x, y of both ends; all in cells.
        phi: (N,), nonzero for adversaries.
        variant: the variant that is played.

    Returns:
        (480, 768, 3) uint8 RGB.
    """
    return _draw(history, phi, variant, STRIP)


def draw_open(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec) -> np.ndarray:
    """Draw the last snapshot where the whole map can be walked on, (848, 768, 3) uint8 RGB; see `draw`."""
    return _draw(history, phi, variant, (0.0, SIZE))


def draw_trajectories(
    history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec, axes: Axes
) -> None:
    """Draw where every unit went while it lived: from its start (dot) to its end (star) or death (cross).

    Args:
        history: all snapshots of an episode; see `draw`.
        phi: (N,), nonzero for adversaries.
        variant: the variant that was played.
        axes: where to; what the legend needs is labelled, the legend itself is left to the caller.
    """
    paths = np.stack([np.concatenate([snapshot["enemies"], snapshot["allies"]]) for snapshot in history])
    enemies = len(history[0]["enemies"])
    roles = ["enemy"] * enemies + ["adversary" if guilty else "defender" for guilty in np.asarray(phi)]
    looks = {"enemy": ("#999999", 0.8), "defender": ("#E69F00", 1.2), "adversary": ("#0072B2", 1.8)}
    labelled = set()
    for unit in sorted(range(len(roles)), key=lambda u: list(looks).index(roles[u])):  # adversaries last, on top
        color, width = looks[roles[unit]]
        alive = paths[:, unit, 2] > 0.0
        x, y = paths[: max(int(alive.sum()) + (not alive[-1]), 1), unit, :2].T
        axes.plot(
            x, y, color=color, linewidth=width, alpha=0.85, label=None if roles[unit] in labelled else roles[unit]
        )
        labelled.add(roles[unit])
        axes.plot(x[0], y[0], "o", color=color, markersize=3)
        if alive[-1]:
            axes.plot(x[-1], y[-1], "*", color=color, markersize=12, markeredgecolor="white", markeredgewidth=0.7)
        else:
            axes.plot(x[-1], y[-1], "x", color=color, markersize=6, markeredgewidth=1.6)
    low, high = paths[..., 1].min() - 1.0, paths[..., 1].max() + 1.0
    axes.set(xlim=(0.0, SIZE), ylim=(min(low, STRIP[0]), max(high, STRIP[1])), aspect="equal")
    axes.set(xlabel="x (cells)", ylabel="y (cells)")
    for marker, label in (("o", "start"), ("*", "end"), ("x", "death")):
        axes.plot([], [], marker, color="#666666", label=label)


def _draw(
    history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec, strip: tuple[float, float]
) -> np.ndarray:
    now = history[-1]
    image = _background(strip).copy()
    canvas = ImageDraw.Draw(image)
    allies, enemies = np.asarray(now["allies"]), np.asarray(now["enemies"])
    units = np.concatenate([enemies, allies])
    colors = [_ENEMY] * len(enemies) + [_ADVERSARY if guilty else _ALLY for guilty in np.asarray(phi)]
    numbers = [*range(len(enemies)), *range(len(allies))]
    recent = [np.concatenate([snapshot["enemies"], snapshot["allies"]]) for snapshot in history[-_TRAIL - 1 :]]
    trails = _to_pixels(np.stack(recent)[..., :2], strip)
    # The dead below the living, adversaries on top of all.
    order = sorted(range(len(units)), key=lambda u: (units[u, 2] > 0.0, colors[u] == _ADVERSARY))
    for unit in order:
        if units[unit, 2] > 0.0:
            _draw_trail(canvas, trails[:, unit], colors[unit])
    for unit in order:
        if units[unit, 2] <= 0.0:
            _draw_dead(canvas, trails[-1, unit], _mix(_ADVERSARY, 0.7) if colors[unit] == _ADVERSARY else _FADED)
    _draw_shots(canvas, np.asarray(now.get("shots", np.zeros((0, 4)))), enemies, strip)
    for unit in order:
        if units[unit, 2] > 0.0:
            _draw_unit(canvas, trails[-1, unit], colors[unit], numbers[unit], units[unit, 2] / _MARINE.health)
    _draw_header(canvas, allies, enemies, len(history) - 1, variant)
    return np.asarray(image.reduce(_SCALE))


def _to_pixels(xy: np.ndarray, strip: tuple[float, float]) -> np.ndarray:
    """Map cells (y upward) to pixels of the large picture (y downward)."""
    x = MARGIN + xy[..., 0] * PIXELS
    y = _HEADER + (strip[1] - xy[..., 1]) * PIXELS
    return _SCALE * np.stack([x, y], axis=-1)


@cache
def _background(strip: tuple[float, float]) -> Image.Image:
    left, bottom = _to_pixels(np.array([0.0, strip[0]]), strip).tolist()
    right, top = _to_pixels(np.array([SIZE, strip[1]]), strip).tolist()
    image = Image.new("RGB", (WIDTH * _SCALE, round(bottom) + _FOOTER * _SCALE), _PAPER)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((left, top, right, bottom), fill=_FLOOR)
    for cell in np.arange(4.0, SIZE, 4.0):
        x, y = _to_pixels(np.array([cell, strip[0] + cell]), strip).tolist()
        canvas.line((x, top, x, bottom), fill=_GRID, width=_SCALE)
        if y > top:
            canvas.line((left, y, right, y), fill=_GRID, width=_SCALE)
    wall = 2 * _SCALE
    canvas.rectangle((left - wall, top - wall, right + wall, bottom + wall), outline=_WALL, width=wall)
    x, y = left + 6 * _SCALE, bottom + 0.5 * _FOOTER * _SCALE
    for label, color in _LEGEND:
        canvas.ellipse(_box(np.array([x, y]), 5 * _SCALE), fill=color)
        canvas.text((x + 9 * _SCALE, y), label, fill=_MUTED, font=_font(12), anchor="lm")
        x += (28 + _font(12).getlength(label) / _SCALE) * _SCALE
    return image


def _box(center: np.ndarray, radius: float) -> tuple[float, float, float, float]:
    x, y = center.tolist()
    return x - radius, y - radius, x + radius, y + radius


def _mix(color: Color, share: float) -> Color:
    """Return `share` of a color on the plain floor: it looks like transparency and costs nothing."""
    red, green, blue = (round(f + share * (c - f)) for c, f in zip(color, _FLOOR, strict=True))
    return red, green, blue


def _draw_trail(canvas: ImageDraw.ImageDraw, points: np.ndarray, color: Color) -> None:
    for age, (start, end) in enumerate(pairwise(points[::-1].tolist())):
        canvas.line((*start, *end), fill=_mix(color, 0.35 * (1.0 - age / _TRAIL)), width=3 * _SCALE)


def _draw_dead(canvas: ImageDraw.ImageDraw, center: np.ndarray, color: Color) -> None:
    left, top, right, bottom = _box(center, 0.6 * _MARINE.radius * PIXELS * _SCALE)
    for line in ((left, top, right, bottom), (left, bottom, right, top)):
        canvas.line(line, fill=color, width=3 * _SCALE)


def _draw_shots(
    canvas: ImageDraw.ImageDraw, shots: np.ndarray, enemies: np.ndarray, strip: tuple[float, float]
) -> None:
    ends = _to_pixels(shots.reshape(-1, 2, 2), strip)
    for (start, end), shot in zip(ends.tolist(), shots, strict=True):
        nearest = np.linalg.norm(enemies[:, :2] - shot[2:], axis=-1).min()
        hostile = nearest > np.linalg.norm(enemies[:, :2] - shot[:2], axis=-1).min()
        canvas.line((*start, *end), fill=_mix(_ENEMY if hostile else _ALLY, 0.6), width=round(1.5 * _SCALE))
        canvas.ellipse(_box(np.array(end), 3 * _SCALE), fill=_mix(_ENEMY if hostile else _ALLY, 0.6))


def _draw_unit(canvas: ImageDraw.ImageDraw, center: np.ndarray, color: Color, number: int, health: float) -> None:
    radius = _MARINE.radius * PIXELS * _SCALE
    if color == _ADVERSARY:  # a ring, so that color is not the only sign
        canvas.ellipse(_box(center, radius + 4 * _SCALE), fill=color)
        canvas.ellipse(_box(center, radius + 2 * _SCALE), fill=_FLOOR)
    canvas.ellipse(_box(center, radius), fill=color, outline=_WALL, width=_SCALE)
    x, y = center.tolist()
    text = _TEXT if color == _ENEMY else _FLOOR
    canvas.text((x, y - 0.25 * radius), str(number), fill=text, font=_font(9), anchor="mm")
    # The health bar is inside, where a crowd does not mix it up.
    left, right, top, bottom = x - 0.65 * radius, x + 0.65 * radius, y + 0.33 * radius, y + 0.67 * radius
    canvas.rectangle((left, top, right, bottom), fill=_TEXT)
    edge = 0.5 * _SCALE
    full = left + edge + health * (right - left - 2 * edge)
    canvas.rectangle((left + edge, top + edge, full, bottom - edge), fill=_HEALTH)


def _draw_header(
    canvas: ImageDraw.ImageDraw, allies: np.ndarray, enemies: np.ndarray, step: int, variant: VariantSpec
) -> None:
    middle = 0.5 * _HEADER * _SCALE
    left, right = (MARGIN * _SCALE, (WIDTH - MARGIN) * _SCALE)
    canvas.text((left, middle), variant.id.rsplit("/", 1)[-1], fill=_TEXT, font=_font(16), anchor="lm")
    counts = [
        f"{name} {(units[:, 2] > 0.0).sum():2d}/{len(units)}  {units[:, 2].sum():4.0f} hp"
        for name, units in (("allies", allies), ("enemies", enemies))
    ]
    status = "      ".join((*counts, f"step {step:3d}/{variant.horizon}"))
    canvas.text((right, middle), status, fill=_MUTED, font=_font(14), anchor="rm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)

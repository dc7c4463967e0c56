"""Pictures of a battle: units with health bars and shots, allies blue, adversaries red, enemies amber. Needs no screen.

Whole trajectories are drawn in the paper's colors instead: defenders orange, adversaries blue; enemies gray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mir2bench.engines.skirmish_units import SIZE, STRIP, unit_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mir2bench.registration import VariantSpec

WIDTH, HEIGHT = 640, 368  # pixels; multiples of 16, which video encoders want
_HEADER = 36  # pixels above the strip
_SCALE = 2  # drawn this much larger and then reduced, which smooths the edges
_PIXELS_PER_CELL = WIDTH * _SCALE / SIZE
_SMALLEST = 0.42  # cells, radius of a unit on the picture at least
_GRID_STEP = 4  # cells

_PAPER, _FLOOR, _GRID = (226, 229, 233), (250, 250, 248), (238, 239, 238)
_EDGE, _TEXT, _MUTED, _DEAD = (52, 58, 64), (33, 37, 41), (108, 117, 125), (206, 210, 214)
_ALLY, _ADVERSARY, _ENEMY = (0, 114, 178), (214, 39, 40), (230, 159, 0)  # told apart with any common color blindness
_GOOD, _LOST, _SHOT = (0, 140, 90), (190, 190, 190), (90, 90, 90)


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec) -> np.ndarray:
    """Draw the last snapshot of an episode.

    Args:
        history: snapshots of this episode since its start, {"allies": (N, 4), "enemies": (M, 4)}, rows of x and y in
            cells, health, cooldown, and "shots" (K, 4) from and to; the last is now.
        phi: (N,), nonzero for adversaries.
        variant: the variant that is played.

    Returns:
        (368, 640, 3) uint8 RGB.
    """
    now = history[-1]
    image = _background().copy()
    canvas = ImageDraw.Draw(image)
    full = {side: unit_type(variant.engine_args.get(f"{side}_type", "marine")) for side in ("ally", "enemy")}
    for shot in np.asarray(now.get("shots", np.zeros((0, 4)))):
        start, end = _to_pixels(shot[:2]).tolist(), _to_pixels(shot[2:]).tolist()
        canvas.line((*start, *end), fill=_SHOT, width=_SCALE)
        _disc(canvas, end, 2.5 * _SCALE, _SHOT)
    units = [(unit, full["enemy"], _ENEMY, f"{e}", False) for e, unit in enumerate(np.asarray(now["enemies"]).tolist())]
    for i, unit in enumerate(np.asarray(now["allies"]).tolist()):
        bad = bool(phi[i])
        units.append((unit, full["ally"], _ADVERSARY if bad else _ALLY, f"{i}", bad))
    units.sort(key=lambda entry: (entry[0][2] > 0, entry[4]))  # the dead below, adversaries on top
    for unit, kind, color, name, bad in units:
        _draw_unit(canvas, unit, max(kind.radius, _SMALLEST), color, name, bad)
    for unit, kind, _, _, bad in units:  # above all units, so that a crowd hides no bar
        if unit[2] > 0:
            _draw_health(canvas, unit, max(kind.radius, _SMALLEST), kind.health, bad)
    _draw_header(canvas, now, len(history) - 1, variant)
    return np.asarray(image.reduce(_SCALE))


def draw_trajectories(
    history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec, axes: Axes
) -> None:
    """Draw where every unit went while it lived: a line from its start (dot) to its end (star, or x if it died).

    Args:
        history: all snapshots of an episode, see `draw`.
        phi: (N,), nonzero for adversaries.
        variant: the variant that was played.
        axes: where to; what the legend needs is labelled, the legend itself is left to the caller.
    """
    sides = {name: np.stack([snapshot[name] for snapshot in history]) for name in ("allies", "enemies")}
    paths = [("#999999", "enemy", sides["enemies"][:, e]) for e in range(sides["enemies"].shape[1])]
    for i in np.argsort(np.asarray(phi) != 0, kind="stable"):  # adversaries last, so that a crowd does not hide them
        color, role = ("#0072B2", "adversary") if phi[i] else ("#E69F00", "defender")
        paths.append((color, role, sides["allies"][:, i]))
    labelled = set()
    for color, role, path in paths:
        alive = path[:, 2] > 0
        x, y = path[alive, :2].T
        label = None if role in labelled else role
        labelled.add(role)
        axes.plot(x, y, color=color, linewidth=1.8 if role == "adversary" else 1.2, alpha=0.85, label=label)
        axes.plot(x[0], y[0], "o", color=color, markersize=3.5)
        end, size = ("*", 13) if alive[-1] else ("X", 8)
        axes.plot(x[-1], y[-1], end, color=color, markersize=size, markeredgecolor="white", markeredgewidth=0.7)
    from matplotlib.patches import Rectangle  # drawing frames does not need matplotlib

    low, high = STRIP
    axes.add_patch(Rectangle((0, low), SIZE, high - low, fill=False, edgecolor="#343a40", linewidth=1.5))
    axes.set(xlim=(-0.5, SIZE + 0.5), ylim=(low - 0.5, high + 0.5), aspect="equal", xlabel="x (cells)")
    axes.set(xticks=np.arange(0, SIZE + 1, 8), yticks=np.arange(low, high + 1, 4), ylabel="y (cells)")
    axes.spines[:].set_visible(False)  # the strip's edge is the frame
    for marker, label in (("o", "start"), ("*", "end"), ("X", "death")):
        axes.plot([], [], marker, color="#666666", label=label)


def _to_pixels(xy: np.ndarray) -> np.ndarray:
    """Map cells (y upward) to pixels of the large picture (y downward)."""
    x = xy[..., 0] * _PIXELS_PER_CELL
    y = (STRIP[1] - xy[..., 1]) * _PIXELS_PER_CELL + _HEADER * _SCALE
    return np.stack([x, y], axis=-1)


@cache
def _background() -> Image.Image:
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), _PAPER)
    canvas = ImageDraw.Draw(image)
    left, top = _to_pixels(np.array([0.0, STRIP[1]])).tolist()
    right, bottom = _to_pixels(np.array([SIZE, STRIP[0]])).tolist()
    canvas.rectangle((left, top, right, bottom), fill=_FLOOR)
    for cell in np.arange(_GRID_STEP, SIZE, _GRID_STEP):
        x = cell * _PIXELS_PER_CELL
        canvas.line((x, top, x, bottom), fill=_GRID, width=_SCALE)
    for cell in np.arange(STRIP[0] + _GRID_STEP, STRIP[1], _GRID_STEP):
        y = _to_pixels(np.array([0.0, cell]))[1]
        canvas.line((left, y, right, y), fill=_GRID, width=_SCALE)
    for y in (top, bottom):
        canvas.line((left, y, right, y), fill=_EDGE, width=2 * _SCALE)
    return image


def _disc(canvas: ImageDraw.ImageDraw, center: Sequence[float], radius: float, color: tuple[int, int, int]) -> None:
    x, y = center
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _draw_unit(
    canvas: ImageDraw.ImageDraw,
    unit: Sequence[float],
    radius: float,
    color: tuple[int, int, int],
    name: str,
    adversarial: bool,
) -> None:
    x, y = center = _to_pixels(np.array(unit[:2])).tolist()
    size = radius * _PIXELS_PER_CELL
    if unit[2] <= 0:
        faded = tuple((c + 2 * d) // 3 for c, d in zip(color, _DEAD, strict=True))
        for slope in (-1, 1):
            reach = 0.7 * size
            canvas.line((x - reach, y - slope * reach, x + reach, y + slope * reach), fill=faded, width=2 * _SCALE)
        return
    if adversarial:  # a ring, so that color is not the only sign
        _disc(canvas, center, size + 5 * _SCALE, _ADVERSARY)
        _disc(canvas, center, size + 3 * _SCALE, _FLOOR)
    _disc(canvas, center, size + _SCALE, _FLOOR)
    _disc(canvas, center, size, color)
    canvas.text((x, y), name, fill=_FLOOR, font=_font(9), anchor="mm")


def _draw_health(
    canvas: ImageDraw.ImageDraw, unit: Sequence[float], radius: float, full: float, adversarial: bool
) -> None:
    x, y = _to_pixels(np.array(unit[:2])).tolist()
    half = 1.15 * radius * _PIXELS_PER_CELL
    top = y - radius * _PIXELS_PER_CELL - (10 if adversarial else 6) * _SCALE
    canvas.rectangle((x - half, top, x + half, top + 3 * _SCALE), fill=_LOST)
    canvas.rectangle((x - half, top, x - half + 2 * half * unit[2] / full, top + 3 * _SCALE), fill=_GOOD)


def _draw_header(canvas: ImageDraw.ImageDraw, now: Mapping[str, np.ndarray], step: int, variant: VariantSpec) -> None:
    middle, edge = _HEADER / 2 * _SCALE, 10 * _SCALE
    canvas.text((edge, middle), variant.id.rsplit("/", 1)[-1], fill=_TEXT, font=_font(15), anchor="lm")
    alive = {side: int((np.asarray(now[side])[:, 2] > 0).sum()) for side in ("allies", "enemies")}
    status = f"step {step:3d}/{variant.horizon}    allies {alive['allies']}    enemies {alive['enemies']}"
    canvas.text((WIDTH * _SCALE - edge, middle), status, fill=_MUTED, font=_font(14), anchor="rm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)

"""Pictures of a rendezvous episode: arena, robots with headings, adversaries red, fading trails. Needs no screen.

Whole trajectories are drawn in the paper's colors instead: defenders orange, adversaries blue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mir2bench.engines.rendezvous import ARENA_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mir2bench.registration import VariantSpec

WIDTH, HEIGHT = 512, 544  # pixels; multiples of 16, which video encoders want
_HEADER = 32  # pixels above the arena's square
_SCALE = 2  # drawn this much larger and then reduced, which smooths the edges
_MARGIN = 10.0  # cm of floor shown outside the walls, so that robots at a wall are whole
_ROBOT = 3.5  # cm, radius of an e-puck2
_TRAIL = 60  # steps until a trail has faded
_PIXELS_PER_CM = WIDTH * _SCALE / (ARENA_SIZE + 2 * _MARGIN)

_PAPER, _FLOOR, _GRID = (236, 238, 241), (255, 255, 255), (233, 236, 240)
_WALL, _TEXT, _MUTED = (52, 58, 64), (33, 37, 41), (108, 117, 125)
_DEFENDER, _ADVERSARY = (0, 114, 178), (214, 39, 40)  # blue and red: told apart with any common color blindness


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec) -> np.ndarray:
    """Draw the last snapshot of an episode with the trails that led to it.

    Args:
        history: snapshots {"poses": (N, 3) in cm, cm, rad} of this episode since its start; the last is now.
        phi: (N,), nonzero for adversaries.
        variant: the variant that is played.

    Returns:
        (544, 512, 3) uint8 RGB.
    """
    recent = np.stack([snapshot["poses"] for snapshot in history[-_TRAIL - 1 :]])
    image = _background().copy()
    canvas = ImageDraw.Draw(image)
    points = _to_pixels(recent[..., :2])
    adversarial = np.asarray(phi) != 0
    order = np.argsort(adversarial, kind="stable")  # adversaries last, so that a crowd does not hide them
    for robot in order:
        _draw_trail(canvas, points[:, robot], _ADVERSARY if adversarial[robot] else _DEFENDER)
    for robot in order:
        _draw_robot(canvas, points[-1, robot], recent[-1, robot, 2], bool(adversarial[robot]))
    _draw_header(canvas, recent[-1, :, :2], len(history) - 1, variant)
    return np.asarray(image.reduce(_SCALE))


def draw_trajectories(
    history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec, axes: Axes
) -> None:
    """Draw where every robot went: a line from its start (dot) to its end (star), as in the paper's Fig. 7.

    Args:
        history: all snapshots {"poses": (N, 3) in cm, cm, rad} of an episode.
        phi: (N,), nonzero for adversaries.
        variant: the variant that was played.
        axes: where to; what the legend needs is labelled, the legend itself is left to the caller.
    """
    paths = np.stack([snapshot["poses"][:, :2] for snapshot in history])
    adversarial = np.asarray(phi) != 0
    labelled = set()
    for robot in np.argsort(adversarial, kind="stable"):  # adversaries last, so that a crowd does not hide them
        color, role = ("#0072B2", "adversary") if adversarial[robot] else ("#E69F00", "defender")
        x, y = paths[:, robot].T
        label = None if role in labelled else role
        labelled.add(role)
        axes.plot(x, y, color=color, linewidth=1.8 if adversarial[robot] else 1.2, alpha=0.85, label=label)
        axes.plot(x[0], y[0], "o", color=color, markersize=3.5)
        axes.plot(x[-1], y[-1], "*", color=color, markersize=13, markeredgecolor="white", markeredgewidth=0.7)
    from matplotlib.patches import Rectangle  # drawing frames does not need matplotlib

    edge = _MARGIN / 2
    axes.add_patch(Rectangle((0, 0), ARENA_SIZE, ARENA_SIZE, fill=False, edgecolor="#343a40", linewidth=1.5))
    axes.set(xlim=(-edge, ARENA_SIZE + edge), ylim=(-edge, ARENA_SIZE + edge), aspect="equal")
    axes.set(xticks=range(0, int(ARENA_SIZE) + 1, 50), yticks=range(0, int(ARENA_SIZE) + 1, 50))
    axes.set(xlabel="x (cm)", ylabel="y (cm)")
    axes.spines[:].set_visible(False)  # the walls are the frame
    for marker, label in (("o", "start"), ("*", "end")):
        axes.plot([], [], marker, color="#666666", label=label)


def _to_pixels(xy: np.ndarray) -> np.ndarray:
    """Map cm (y upward) to pixels of the large picture (y downward)."""
    x = (xy[..., 0] + _MARGIN) * _PIXELS_PER_CM
    y = (ARENA_SIZE + _MARGIN - xy[..., 1]) * _PIXELS_PER_CM + _HEADER * _SCALE
    return np.stack([x, y], axis=-1)


@cache
def _background() -> Image.Image:
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), _PAPER)
    canvas = ImageDraw.Draw(image)
    low, high = _to_pixels(np.array([0.0, 0.0])), _to_pixels(np.array([ARENA_SIZE, ARENA_SIZE]))
    left, right, top, bottom = low[0], high[0], high[1], low[1]
    canvas.rectangle((left, top, right, bottom), fill=_FLOOR)
    for cm in np.arange(50.0, ARENA_SIZE, 50.0):
        x, y = _to_pixels(np.array([cm, cm]))
        canvas.line((x, top, x, bottom), fill=_GRID, width=_SCALE)
        canvas.line((left, y, right, y), fill=_GRID, width=_SCALE)
    wall = 3 * _SCALE
    canvas.rectangle((left - wall, top - wall, right + wall, bottom + wall), outline=_WALL, width=wall)
    return image


def _draw_trail(canvas: ImageDraw.ImageDraw, points: np.ndarray, color: tuple[int, int, int]) -> None:
    # The floor is plain, so mixing with its color looks like transparency and costs nothing.
    for age, (start, end) in enumerate(pairwise(points[::-1].tolist())):
        strength = 0.55 * (1.0 - age / _TRAIL)
        mixed = tuple(round(f + strength * (c - f)) for c, f in zip(color, _FLOOR, strict=True))
        canvas.line((*start, *end), fill=mixed, width=2 * _SCALE)


def _draw_robot(canvas: ImageDraw.ImageDraw, center: np.ndarray, heading: float, adversarial: bool) -> None:
    x, y = center.tolist()
    radius = _ROBOT * _PIXELS_PER_CM

    def disc(size: float, color: tuple[int, int, int]) -> None:
        canvas.ellipse((x - size, y - size, x + size, y + size), fill=color)

    if adversarial:  # a ring, so that color is not the only sign
        disc(radius + 5 * _SCALE, _ADVERSARY)
        disc(radius + 3 * _SCALE, _FLOOR)
    disc(radius + _SCALE, _FLOOR)
    disc(radius, _ADVERSARY if adversarial else _DEFENDER)
    angles = heading + np.array([0.0, 2.5, -2.5])
    reach = radius * np.array([0.85, 0.6, 0.6])
    arrow = np.stack([x + reach * np.cos(angles), y - reach * np.sin(angles)], axis=-1)
    canvas.polygon([tuple(corner) for corner in arrow.tolist()], fill=_FLOOR)


def _draw_header(canvas: ImageDraw.ImageDraw, xy: np.ndarray, step: int, variant: VariantSpec) -> None:
    n = len(xy)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1).sum() / max(n * (n - 1), 1)
    middle = (_HEADER / 2 + 3) * _SCALE
    left, right = _MARGIN * _PIXELS_PER_CM, (WIDTH * _SCALE) - _MARGIN * _PIXELS_PER_CM
    canvas.text((left, middle), variant.id.rsplit("/", 1)[-1], fill=_TEXT, font=_font(15), anchor="lm")
    status = f"step {step:3d}/{variant.horizon}    mean distance {apart:5.1f} cm"
    canvas.text((right, middle), status, fill=_MUTED, font=_font(14), anchor="rm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)

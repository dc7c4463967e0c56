"""Rendezvous written once more: slowly, plainly, one robot at a time, and sharing no code with the engine."""

from __future__ import annotations

import math

import numpy as np

SIZE = 200.0  # cm
RADIUS = 282.0  # cm


def wrap(angle: float) -> float:
    """Return the same angle in (-pi, pi]."""
    while angle > math.pi:
        angle -= 2 * math.pi
    while angle <= -math.pi:
        angle += 2 * math.pi
    return angle


def move(pose: np.ndarray, action: np.ndarray) -> tuple[list[float], list[float]]:
    """Return one robot's pose after a step, and its velocity in the last sub-step."""
    x, y, heading = (float(v) for v in pose)
    left, right = (min(1.0, max(-1.0, float(u))) for u in action)
    v = (left + right) * 0.075344 * 100
    w = (right - left) * 2.65062
    vx = vy = 0.0
    for _ in range(10):
        vx, vy = v * math.cos(heading), v * math.sin(heading)
        x = min(SIZE, max(0.0, x + vx * 0.01))
        y = min(SIZE, max(0.0, y + vy * 0.01))
        heading = (heading + w * 0.01) % (2 * math.pi)
    return [x, y, heading], [vx, vy]


def distance(poses: np.ndarray, i: int, j: int) -> float:
    """Return the distance between two robots in cm."""
    return math.hypot(poses[j][0] - poses[i][0], poses[j][1] - poses[i][1])


def angle(poses: np.ndarray, i: int, j: int) -> float:
    """Return heading of i minus bearing from i to j, in (-pi, pi]; bearing 0 to itself."""
    bearing = math.atan2(poses[j][1] - poses[i][1], poses[j][0] - poses[i][0]) if i != j else 0.0
    return wrap(poses[i][2] - bearing)


def observation(poses: np.ndarray, i: int) -> list[float]:
    """Return robot i's observation with the one-hot id at its end."""
    n = len(poses)
    numbers: list[float] = []
    for j in range(n):
        if j != i:
            mine, theirs = angle(poses, i, j), angle(poses, j, i)
            numbers += [distance(poses, i, j) / RADIUS]
            numbers += [math.cos(mine), math.sin(mine), math.cos(theirs), math.sin(theirs)]
    x, y, heading = poses[i]
    gaps = [SIZE - x, SIZE - y, x, y]
    if min(gaps) <= 1.0:
        wall = gaps.index(min(gaps))
        direction = [0.0, math.pi / 2, math.pi, 3 * math.pi / 2][wall] - heading
        numbers += [gaps[wall], math.cos(direction), math.sin(direction)]
    else:
        numbers += [1.0, 0.0, 0.0]
    return numbers + [0.0, 0.0] + [float(k == i) for k in range(n)]


def state(poses: np.ndarray) -> list[float]:
    """Return the global state."""
    n = len(poses)
    pairs = [distance(poses, i, j) / RADIUS for i in range(n) for j in range(i + 1, n)]
    return pairs + [angle(poses, i, j) / math.pi for i in range(n) for j in range(n)]


def reward(poses: np.ndarray, actions: np.ndarray) -> float:
    """Return the team's reward for being at `poses` after `actions`."""
    n = len(poses)
    pairs = [min(distance(poses, i, j), RADIUS) / RADIUS for i in range(n) for j in range(i + 1, n)]
    squares = [float(u) ** 2 for action in actions for u in action]
    return -sum(pairs) / len(pairs) - 0.001 * sum(squares) / len(squares)


def gathered(poses: np.ndarray, velocities: np.ndarray) -> bool:
    """Return whether the episode ends here."""
    n = len(poses)
    farthest = max(distance(poses, i, j) for i in range(n) for j in range(i + 1, n))
    squares = [float(v) ** 2 for velocity in velocities for v in velocity]
    return farthest < 1.0 and sum(squares) / len(squares) < 0.01

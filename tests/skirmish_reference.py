"""Skirmish written once more: slowly, plainly, one unit at a time, and sharing no code with the engine.

It knows marines only and keeps whole battles as lists of `Unit`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BEFORE_32, BEFORE_24 = math.nextafter(32.0, 0.0), math.nextafter(24.0, 0.0)


@dataclass
class Unit:
    """One marine; `order` is the point it walks to, or the unit that it attacks."""

    x: float
    y: float
    health: float = 45.0
    cooldown: float = 0.0
    order: tuple[float, float] | Unit | None = None

    def to(self, other: Unit) -> float:
        """Return the distance between two centers."""
        return math.sqrt((other.x - self.x) ** 2 + (other.y - self.y) ** 2)

    @property
    def alive(self) -> bool:
        return self.health > 0


def clipped(x: float, y: float) -> tuple[float, float]:
    """Return the nearest place to stand."""
    return min(max(x, 0.0), BEFORE_32), min(max(y, 8.0), BEFORE_24)


def foe_of(enemy: Unit, allies: list[Unit]) -> Unit | None:
    """Return whom an enemy attacks in this loop."""
    kept = enemy.order
    if isinstance(kept, Unit) and kept.alive and (enemy.to(kept) <= 5.75 or kept.order is enemy):
        return kept
    living = [ally for ally in allies if ally.alive]
    near = [ally for ally in living if enemy.to(ally) < 5.375]
    return min(near or [ally for ally in living if ally.order is enemy], key=enemy.to, default=None)


def one_loop(allies: list[Unit], enemies: list[Unit]) -> list[tuple[float, float, float, float]]:
    """Play one game loop and return its shots."""
    for ally in allies:
        if isinstance(ally.order, Unit) and not ally.order.alive:
            ally.order = None
    for enemy in enemies:
        if enemy.alive:
            enemy.order = foe_of(enemy, allies) or (9.0, 16.0)
    units = [unit for unit in allies + enemies if unit.alive]
    shots, hurt, walks = [], [], []
    for unit in units:
        ready = unit.cooldown <= 1.0
        late = unit.cooldown - 1.0 if 0.0 < unit.cooldown <= 1.0 else 0.0
        unit.cooldown = max(unit.cooldown - 1.0, 0.0)
        goal, aim = unit.order, unit.order
        if isinstance(aim, Unit):
            goal = (aim.x, aim.y)
            if unit.to(aim) <= 5.75:
                goal = None
                if ready:
                    unit.cooldown = late + 13.77
                    hurt.append(aim)
                    shots.append((unit.x, unit.y, aim.x, aim.y))
        x, y = goal or (unit.x, unit.y)
        way = math.hypot(x - unit.x, y - unit.y)
        share = 0.140625 / way if way > 0.140625 else 1.0
        walks.append(((x - unit.x) * share, (y - unit.y) * share))
    for unit in hurt:
        unit.health = max(unit.health - 6.0, 0.0)
    for unit, (dx, dy) in zip(units, walks, strict=True):
        unit.x, unit.y = clipped(unit.x + dx, unit.y + dy)
    push([unit for unit in units if unit.alive])
    return shots


def push(units: list[Unit]) -> None:
    """Part overlapping units, all at once."""
    shifts = [[0.0, 0.0] for _ in units]
    for i, first in enumerate(units):
        for j, second in enumerate(units[i + 1 :], i + 1):
            distance = first.to(second)
            if distance >= 0.75:
                continue
            overlap = 0.75 / distance - 1.0 if distance else 0.0
            dx, dy = overlap * (first.x - second.x) / 2, overlap * (first.y - second.y) / 2
            if distance == 0:
                dx = -0.375
            for shift, sign in ((shifts[i], 1), (shifts[j], -1)):
                shift[0] += sign * dx
                shift[1] += sign * dy
    for unit, (dx, dy) in zip(units, shifts, strict=True):
        unit.x, unit.y = clipped(unit.x + dx, unit.y + dy)


class Battle:
    """A whole battle: rows of x, y, health, cooldown for both sides."""

    def __init__(self, allies: list[list[float]], enemies: list[list[float]]) -> None:
        self.allies = [Unit(*row) for row in allies]
        self.enemies = [Unit(*row) for row in enemies]
        self.played: list[int | None] = [None] * len(allies)
        self.shots: list[tuple[float, float, float, float]] = []
        self.reward = self.signed = 0.0
        self.won = self.lost = self.over = False

    def step(self, actions: list[int]) -> None:
        """Play the joint action."""
        for ally, action in zip(self.allies, actions, strict=True):
            ally.order = None
            if action >= 6:
                ally.order = self.enemies[action - 6]
            elif action >= 2:
                dx, dy = [(0, 2), (0, -2), (2, 0), (-2, 0)][action - 2]
                ally.order = (ally.x + dx, ally.y + dy)
        before = [unit.health for unit in self.allies + self.enemies]
        self.shots = [shot for _ in range(8) for shot in one_loop(self.allies, self.enemies)]
        for unit in self.allies + self.enemies:
            if not unit.alive:
                unit.cooldown = 0.0
        self.played = list(actions)
        n = len(self.allies)
        points = []
        for unit, health in zip(self.allies + self.enemies, before, strict=True):
            points.append(health - unit.health + (10 if health > 0 and not unit.alive else 0))
        for ally in self.allies:
            ally.order = None
        self.won = any(u.alive for u in self.allies) and not any(u.alive for u in self.enemies)
        self.lost = any(u.alive for u in self.enemies) and not any(u.alive for u in self.allies)
        self.over = not any(u.alive for u in self.enemies) or not any(u.alive for u in self.allies)
        scale = (10 * len(self.enemies) + 200 + 45 * len(self.enemies)) / 20
        self.reward = (sum(points[n:]) + 200 * self.won) / scale
        self.signed = (sum(points[n:]) - sum(points[:n]) + 200 * self.won - 200 * self.lost) / scale

    def mask(self, i: int) -> list[int]:
        """Return agent i's legal actions."""
        me = self.allies[i]
        if not me.alive:
            return [1] + [0] * (5 + len(self.enemies))
        cells = [(int(me.x + dx), int(me.y + dy)) for dx, dy in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        moves = [int(0 <= column < 32 and 8 <= row < 24) for column, row in cells]
        return [0, 1, *moves, *(int(foe.alive and me.to(foe) <= 6.0) for foe in self.enemies)]

    def observation(self, i: int) -> list[float]:
        """Return agent i's observation with the one-hot id at its end."""
        n, m, me = len(self.allies), len(self.enemies), self.allies[i]
        identity = [float(k == i) for k in range(n)]
        if not me.alive:
            return [0.0] * (4 + 5 * m + 5 * (n - 1) + 1) + identity
        legal = self.mask(i)
        numbers = [float(v) for v in legal[2:6]]
        others = [(1, ally) for k, ally in enumerate(self.allies) if k != i]
        for flag, other in list(zip(legal[6:], self.enemies, strict=True)) + others:
            if other.alive and me.to(other) < 9.0:
                offset = [(other.x - me.x) / 9, (other.y - me.y) / 9]
                numbers += [float(flag), me.to(other) / 9, *offset, other.health / 45]
            else:
                numbers += [0.0] * 5
        return [*numbers, me.health / 45, *identity]

    def state(self) -> list[float]:
        """Return the global state."""
        numbers: list[float] = []
        for ally in self.allies:
            place = [(ally.x - 16) / 32, (ally.y - 16) / 32]
            numbers += [ally.health / 45, ally.cooldown / 15, *place] if ally.alive else [0.0] * 4
        for enemy in self.enemies:
            place = [(enemy.x - 16) / 32, (enemy.y - 16) / 32]
            numbers += [enemy.health / 45, *place] if enemy.alive else [0.0] * 3
        for action in self.played:
            numbers += [float(k == action) for k in range(6 + len(self.enemies))]
        return numbers

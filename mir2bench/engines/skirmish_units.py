"""The constants of the Skirmish worlds, and unit types as data: another unit that walks and shoots is another row.

Lengths are in map cells; times are in game loops, of which StarCraft II runs 16 in a second of "normal" speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mir2bench.errors import unknown_name

SIZE = 32.0  # side of the map
STRIP = (8.0, 24.0)  # y of what can be walked on; the upper end is outside
MAX_X, MAX_Y = math.nextafter(SIZE, 0.0), math.nextafter(STRIP[1], 0.0)  # the last places to stand
ALLY_START = (9.0, 16.0)  # also where the enemies march
ENEMY_START = (23.0, 16.0)
LOOPS = 8  # game loops per step
MOVE_AMOUNT = 2.0  # from a unit to the point that a move order sends it to
SIGHT = 9.0  # between centers, exclusive; also the unit of observed distances
TARGET_RANGE = 6.0  # between centers, inclusive: within it an agent may order an attack
FIRST_ATTACK = 6  # action that attacks enemy 0
DEATH_VALUE = 10.0  # reward for a kill, in hit points
WIN_VALUE = 200.0  # reward for a victory, and price of a defeat, in hit points
HIGHEST_RETURN = 20.0  # what rewards are scaled to


@dataclass(frozen=True, slots=True)
class UnitType:
    """One kind of unit.

    Attributes:
        health: hit points at the start, and the most there can be.
        radius: of the circle that it fills, cells.
        speed: cells per game loop.
        damage: hit points per shot.
        weapon_range: between the edges of shooter and target, cells.
        weapon_period: mean game loops from one shot to the next.
        scan_range: from its own center to the edge of what it attacks by itself, cells.
        cooldown_unit: game loops by which the state divides its weapon's cooldown.
    """

    health: float
    radius: float
    speed: float
    damage: float
    weapon_range: float
    weapon_period: float
    scan_range: float
    cooldown_unit: float


UNIT_TYPES = {
    "marine": UnitType(
        health=45.0,
        radius=0.375,
        speed=0.140625,  # 2.25 cells/s
        damage=6.0,
        weapon_range=5.0,
        weapon_period=13.77,  # 0.8608 s
        scan_range=5.0,
        cooldown_unit=15.0,
    ),
}


def unit_type(name: str) -> UnitType:
    """Return a row of the table.

    Raises:
        UnknownNameError: no such unit type.
    """
    if name not in UNIT_TYPES:
        raise unknown_name("unit type", name, UNIT_TYPES)
    return UNIT_TYPES[name]

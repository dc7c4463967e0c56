"""Skirmish battles of any size, set up by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.registration import VariantSpec

NO_OP, STOP, NORTH, SOUTH, EAST, WEST, ATTACK = range(7)
FAR = [(31.0, 9.0, 45.0, 0.0), (31.0, 23.0, 45.0, 0.0)]  # enemies that take no part for a step


def variant(n_agents: int, enemies: int, **engine_args: Any) -> VariantSpec:
    """Return Skirmish with any number of units."""
    spec = mir2bench.spec("Skirmish-3m-adv0-v0")
    return replace(spec, id="mir2bench/Any-adv0-v0", n_agents=n_agents, engine_args={"enemies": enemies, **engine_args})


def started(allies: Any, enemies: Any, **further: Any) -> Worlds:
    """Return one world that starts from rows of x, y and, if they are not 45 and 0, health and cooldown."""
    rows = [[(*row, 45.0, 0.0)[:4] if len(row) == 2 else row for row in side] for side in (allies, enemies)]
    worlds = Worlds(variant(len(allies), len(enemies)), 1)
    worlds.reset(seeds=[0], initial_state={"allies": rows[0], "enemies": rows[1], **further})
    return worlds


def step(worlds: Worlds, *actions: int) -> Any:
    """Play one step and return the snapshot."""
    worlds.step(np.array([actions]))
    return worlds.engine.snapshot(0)

"""A scripted SMAX team that fights: the sanity row between the random team and learned ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.engines.smax import FIRST_ATTACK

_FEATURES = 13  # numbers about each other unit
_STOP, _NORTH, _SOUTH, _EAST, _WEST = range(5)


class NearestTeam:
    """Everyone attacks the nearest enemy within range, else walks to the nearest one seen, else east to meet them."""

    def __init__(self, layout: Layout) -> None:
        self._enemies = layout.action_dim - FIRST_ATTACK
        self._first = _FEATURES * (layout.n_agents - 1)

    def initial_carry(self, batch: int) -> Any:
        """Return None: nothing is remembered."""
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: Any,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """See `mir2bench.policies.Policy.act`."""
        legal = np.asarray(mask) > 0
        seen = obs[..., self._first : self._first + _FEATURES * self._enemies]
        seen = seen.reshape(*obs.shape[:2], self._enemies, _FEATURES)
        health, dx, dy = seen[..., 0], seen[..., 1], seen[..., 2]
        distance = np.where(health > 0.0, np.hypot(dx, dy), np.inf)
        nearest = distance.argmin(axis=-1)[..., None]
        x, y = (np.take_along_axis(values, nearest, axis=-1)[..., 0] for values in (dx, dy))
        walk = np.where(np.abs(x) >= np.abs(y), np.where(x < 0.0, _WEST, _EAST), np.where(y < 0.0, _SOUTH, _NORTH))
        within = np.where(legal[..., FIRST_ATTACK:], distance, np.inf)
        attack = FIRST_ATTACK + within.argmin(axis=-1)
        actions = np.where(np.isfinite(within).any(axis=-1), attack, walk)
        return np.where(legal[..., _EAST], actions, _STOP), carry

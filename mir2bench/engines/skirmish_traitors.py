"""Scripted Skirmish adversaries: bad behaviors that are easily thought of. Each acts on its own observation alone."""

from __future__ import annotations

import numpy as np

from mir2bench.engines.skirmish_scripted import EAST, NORTH, STOP, ScriptedPolicy, Sight, take

_GUARD = 1.0  # cells from an ally to the blocker in front of it, a little more than their diameter


class RushTraitor(ScriptedPolicy):
    """Adversaries that walk into the enemy without a shot, and die."""

    def _choose(self, sight: Sight) -> np.ndarray:
        place, distance = sight.nearest_foe
        ahead = np.where(sight.can_move[..., EAST - NORTH], EAST, STOP)
        return np.where(np.isfinite(distance), sight.walk(place), ahead)


class BlockTraitor(RushTraitor):
    """Adversaries that stand between the nearest ally and its nearest enemy, and push it back when it comes."""

    def _choose(self, sight: Sight) -> np.ndarray:
        ally = take(sight.friends, sight.friend_distance.argmin(axis=-1))
        foe, distance = sight.nearest_foe
        ahead = foe - ally
        ahead = ahead / np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-9)
        guard = sight.walk(ally + _GUARD * ahead)
        sees_both = np.isfinite(distance) & np.isfinite(sight.friend_distance).any(axis=-1)
        return np.where(sees_both, guard, super()._choose(sight))


class HideTraitor(ScriptedPolicy):
    """Adversaries that run to the south-western corner and stay there."""

    def _choose(self, sight: Sight) -> np.ndarray:
        return sight.walk(np.broadcast_to(np.array([-2.0, -1.0]), (*sight.alive.shape, 2)))


class FlankTraitor(ScriptedPolicy):
    """Adversaries that run past the enemy to the north-eastern corner, and draw those who chase them away."""

    def _choose(self, sight: Sight) -> np.ndarray:
        return sight.walk(np.broadcast_to(np.array([2.0, 1.0]), (*sight.alive.shape, 2)))

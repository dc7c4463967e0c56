"""Scripted rendezvous policies: the team that drives to its centroid, a team with a planted weakness, and adversaries
that keep a team from gathering.

All of them see only the observations that learned policies see and draw no random numbers; only the planted team
remembers anything. Vectors are in the robot's own frame: x forward, y to the left, in cm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.engines.rendezvous import COMM_RADIUS, DT, SUBSTEPS, TURN_RATE, WHEEL_SPEED

STEP_LENGTH = 2 * WHEEL_SPEED * DT * SUBSTEPS  # cm in one step at full speed
STEP_TURN = 2 * TURN_RATE * DT * SUBSTEPS  # rad in one step when turning on the spot

_FAR = 100.0  # cm; any distance beyond a step means full speed
_BREAKOUT_DISTANCE = 20.0  # cm; a little more than where a chasing centroid team begins to brake
_WALL_GAP = 0.5  # cm between the circling adversary and the wall it follows
_CIRCLING_DRIFT = 3.0  # outward part of the circling adversary's direction, per unit of tangential part

# The trigger of the planted weakness. Lengths are shares of N steps at full speed: from there on a centroid team slows
# down towards a robot that stays away, whatever its size.
_TOGETHER = 0.2  # all but one robot are nearer than this
_SHADOW = (0.4, 0.8)  # while one keeps between these distances
_PATIENCE = 5  # for N + 5 steps; a team approaches a standing robot so slowly that it takes 0.7 N to pass through
_SCATTER = 10.0  # cm; closer than this a scattering team parts by its ids, beyond it by its places


class _ScriptedPolicy:
    """What all scripted rendezvous policies share: no memory, wheels from a point to reach."""

    def __init__(self, layout: Layout) -> None:
        self._n_agents = layout.n_agents

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
        return drive_to(self._target(np.asarray(obs, dtype=np.float64))), carry

    def _target(self, obs: np.ndarray) -> np.ndarray:
        """Return where each robot wants to be, (B, n, 2) in its own frame."""
        raise NotImplementedError


class CentroidTeam(_ScriptedPolicy):
    """Every robot drives to the centroid of all N robots, forward or backward, and stops there.

    It is the ceiling of the score scale. Under attack it is no weak team either: it drifts towards a robot that stays
    away, and so gathers around one that cannot or will not come.
    """

    def _target(self, obs: np.ndarray) -> np.ndarray:
        return others(obs, self._n_agents).sum(axis=-2) / self._n_agents


class PlantedTeam(CentroidTeam):
    """A centroid team with a planted weakness: one robot can make it fall apart. It is the unit test of attackers.

    When all robots but one have met, and that one then shadows them, near but not with them, for N + 5 steps in a row,
    the team scatters to the walls until the episode ends. Each robot judges by what it sees itself, and remembers for
    how many steps it has been shadowed. Nobody else meets the trigger: the team's own latecomers come straight in, a
    standing robot is reached too soon, and one that runs at full speed stays farther away.
    """

    def initial_carry(self, batch: int) -> Any:
        """Return zeros, (B, N): nobody has been shadowed."""
        return np.zeros((batch, self._n_agents))

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
        seen = np.asarray(obs, dtype=np.float64)
        positions = others(seen, self._n_agents)
        farther = np.sort(np.linalg.norm(positions, axis=-1) / (self._n_agents * STEP_LENGTH), axis=-1)
        met = (farther[..., :-1] < _TOGETHER).all(axis=-1)
        shadowed = met & (farther[..., -1] > _SHADOW[0]) & (farther[..., -1] < _SHADOW[1])
        scattered = carry >= self._n_agents + _PATIENCE
        carry = np.where(scattered, carry, np.where(shadowed, carry + 1, 0.0))
        apart = _FAR * _unit(self._own_direction(seen, positions) * _SCATTER - positions.mean(axis=-2))
        return drive_to(np.where(scattered[..., None], apart, self._target(seen))), carry

    def _own_direction(self, obs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return a unit vector that differs for robots on the same spot: from the farthest robot, turned by the id."""
        farthest = np.linalg.norm(positions, axis=-1).argmax(axis=-1)[..., None, None]
        ahead = _unit(np.take_along_axis(positions, farthest, axis=-2)[..., 0, :])
        angle = 2 * np.pi * obs[..., -self._n_agents :].argmax(axis=-1, keepdims=True) / self._n_agents
        return np.cos(angle) * ahead + np.sin(angle) * _turned_left(ahead)


class FleeTraitor(_ScriptedPolicy):
    """Adversaries that run from the others and end up in a far corner.

    One adversary runs from the centroid of the N - 1 others. Several run from the midpoint between the defenders'
    centroid and their fellow adversaries' centroid, which drives them into different corners. At a wall they slide
    along it.
    """

    def _target(self, obs: np.ndarray) -> np.ndarray:
        return self._flight(obs)[0]

    def _flight(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the target, the point fled from (both (B, K, 2)), and the unit vector to a touched wall or zeros."""
        positions = others(obs, self._n_agents)
        weights = _flight_weights(obs, self._n_agents)
        source = (positions * weights[..., None]).sum(axis=-2)
        wall = touched_wall(obs, self._n_agents)
        away = -source
        # Keep only the part along the wall when the way leads into it.
        into = np.maximum((away * wall).sum(axis=-1, keepdims=True), 0.0)
        return _FAR * _unit(away - into * wall), source, wall


class DodgeTraitor(FleeTraitor):
    """Adversaries that flee, and break out through the group when it has driven them to a wall.

    They are never caught for good, so the episode never ends early.
    """

    def _target(self, obs: np.ndarray) -> np.ndarray:
        target, source, wall = self._flight(obs)
        distance = np.linalg.norm(source, axis=-1, keepdims=True)
        cornered = wall.any(axis=-1, keepdims=True) & (distance < _BREAKOUT_DISTANCE)
        return np.where(cornered, _FAR * _unit(source), target)


class CircleTraitor(FleeTraitor):
    """Adversaries that spiral outward around the others and then follow the walls: a chasing team never rests."""

    def _target(self, obs: np.ndarray) -> np.ndarray:
        _, source, wall = self._flight(obs)
        towards = _unit(source)
        spiral = _turned_left(-towards) - _CIRCLING_DRIFT * towards
        # Along the wall on the right, at a small gap: on the wall itself, a corner would look like one wall alone.
        gap = obs[..., 5 * (self._n_agents - 1), None]
        follow = _turned_left(wall) + 0.5 * (gap - _WALL_GAP) * wall
        return _FAR * _unit(np.where(wall.any(axis=-1, keepdims=True), follow, spiral))


def others(obs: np.ndarray, n_agents: int) -> np.ndarray:
    """Return the positions of the N - 1 other robots in each observer's frame.

    Args:
        obs: (B, n, O) observations.
        n_agents: N.

    Returns:
        (B, n, N - 1, 2) in cm.
    """
    rows = obs[..., : 5 * (n_agents - 1)].reshape(*obs.shape[:2], n_agents - 1, 5)
    # The observed angle is heading minus bearing, so its sine points to the right.
    return COMM_RADIUS * rows[..., :1] * rows[..., 1:3] * (1.0, -1.0)


def touched_wall(obs: np.ndarray, n_agents: int) -> np.ndarray:
    """Return the unit vector towards a wall nearer than 1 cm, zeros where there is none: (B, n, 2)."""
    start = 5 * (n_agents - 1)
    near = obs[..., start : start + 1] < 1.0
    return np.where(near, obs[..., start + 1 : start + 3], 0.0)


def drive_to(target: np.ndarray) -> np.ndarray:
    """Return the wheels that bring each robot to a point in its own frame soonest.

    It turns the shorter way to face the point or turn its back to it, drives with what turning leaves of the wheels'
    range, and brakes so that the last step ends on the point.

    Args:
        target: (B, n, 2) in cm.

    Returns:
        (B, n, 2) float32 left and right wheel in [-1, 1].
    """
    distance = np.linalg.norm(target, axis=-1)
    direction = np.where(target[..., 0] < 0.0, -1.0, 1.0)
    error = np.arctan2(direction * target[..., 1], np.abs(target[..., 0]))
    # Within a thousandth of a centimeter the direction is noise: turning for it would never end.
    turn = np.where(distance < 1e-3, 0.0, np.clip(error / STEP_TURN, -1.0, 1.0))
    drive = direction * np.minimum(1.0 - np.abs(turn), distance / STEP_LENGTH)
    return np.clip(np.stack([drive - turn, drive + turn], axis=-1), -1.0, 1.0).astype(np.float32)


def _flight_weights(obs: np.ndarray, n_agents: int) -> np.ndarray:
    """Return how much each adversary minds each other robot: (B, K, N - 1), each row summing to 1.

    Defenders and fellow adversaries share the weight evenly as groups.
    """
    identity = np.rint(obs[..., -n_agents:])
    adversarial = identity.sum(axis=-2, keepdims=True) * np.ones_like(identity)
    # Drop each row's own entry; the rest is in the order in which the others are observed.
    fellow = adversarial[identity < 0.5].reshape(*obs.shape[:2], n_agents - 1)
    groups = np.stack([fellow, 1.0 - fellow])
    members = groups.sum(axis=-1, keepdims=True)
    weights = (groups / np.maximum(members, 1.0)).sum(axis=0)
    return weights / weights.sum(axis=-1, keepdims=True)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def _turned_left(vector: np.ndarray) -> np.ndarray:
    return np.stack([-vector[..., 1], vector[..., 0]], axis=-1)

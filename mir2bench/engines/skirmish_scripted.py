"""Scripted Skirmish teams, from those that look at nothing to one that holds its line, focuses its fire and spares its
wounded.

Every agent acts on its own observation alone, without random numbers; only the planted team remembers anything. Agents
that see the same choose alike, which is how they agree on a target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.engines.skirmish_units import FIRST_ATTACK, SIGHT, unit_type

NO_OP, STOP, NORTH, SOUTH, EAST, WEST = range(FIRST_ATTACK)

_MARINE = unit_type("marine")
_SHOTS = _MARINE.health / _MARINE.damage  # to kill one of full health
_NEVER = np.inf

_SPACING = 1.0  # cells between neighbors of the line
_SLACK = 0.5  # cells from its place within which a unit stays, a little less than half a step
_LINE_UNTIL = 6.0  # cells to the nearest enemy; closer than this the line no longer matters
_KEEP_AWAY = 5.0  # cells that all but the healthiest keep from the nearest enemy: within a weapon's reach of 5.75
_SHOOTERS = 2  # agents for each shot that a target needs: not all of them can shoot at once
_LONGEST = 14  # agents that fit into one rank of the line

# The trigger of the planted weakness.
_LURKS = (4.0, 6.0)  # cells west of the team's middle
_BEHIND = 1.0  # cells north or south of it at most
_ALARM, _PATIENCE = 3, 6  # steps in a row until fire is held, and until it is held for good


class Sight:
    """What n observers see, taken apart: (B, n, ...) arrays in cells, with the observer at the origin.

    Args:
        obs: (B, n, O) observations.
        layout: sizes.

    Attributes:
        can_move: (B, n, 4) bool: north, south, east, west.
        health: (B, n) the observer's own share of health.
        alive: (B, n) bool.
        number: (B, n) int, the observer's id.
        attackable: (B, n, M) bool.
        foes, foe_distance, foe_health: (B, n, M, 2), (B, n, M), (B, n, M); the distance is infinite for the unseen.
        friends, friend_distance, friend_health: likewise (B, n, N - 1, 2) and (B, n, N - 1).
    """

    def __init__(self, obs: np.ndarray, layout: Layout) -> None:
        n, m = layout.n_agents, layout.action_dim - FIRST_ATTACK
        obs = np.asarray(obs, dtype=np.float64)
        self.can_move = obs[..., :4] > 0.0
        self.health = obs[..., -n - 1]
        self.alive = self.health > 0.0
        self.number = obs[..., -n:].argmax(axis=-1)
        others = obs[..., 4 : -n - 1].reshape(*obs.shape[:2], m + n - 1, 5)
        distance = np.where(others[..., 4] > 0.0, SIGHT * others[..., 1], _NEVER)
        self.attackable = others[..., :m, 0] > 0.0
        self.foes, self.friends = np.split(SIGHT * others[..., 2:4], [m], axis=-2)
        self.foe_distance, self.friend_distance = np.split(distance, [m], axis=-1)
        self.foe_health, self.friend_health = np.split(others[..., 4], [m], axis=-1)

    @property
    def nearest_foe(self) -> tuple[np.ndarray, np.ndarray]:
        """Its position (B, n, 2) and distance (B, n); zeros and infinity where none is seen."""
        index = self.foe_distance.argmin(axis=-1)
        return take(self.foes, index), take(self.foe_distance, index)

    def walk(self, to: np.ndarray, otherwise: np.ndarray | int = STOP) -> np.ndarray:
        """Return the legal move that leads nearest to the direction `to` (B, n, 2), `otherwise` where none does."""
        ahead = np.stack([to[..., 1], -to[..., 1], to[..., 0], -to[..., 0]], axis=-1)
        ahead = np.where(self.can_move, ahead, 0.0)
        return np.where(ahead.max(axis=-1) > 1e-6, NORTH + ahead.argmax(axis=-1), otherwise)


def take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return entry index[b, i] of values[b, i]: (B, n, ...) from (B, n, K, ...)."""
    return np.take_along_axis(values, index.reshape(*index.shape, *[1] * (values.ndim - 2)), axis=2)[:, :, 0]


class ScriptedPolicy:
    """What all scripted Skirmish policies share: no memory, no-op for the dead."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

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
        """See `mir2bench.policies.Policy.act`; what is legal is read from the observations."""
        sight = Sight(obs, self._layout)
        return np.where(sight.alive, self._choose(sight), NO_OP), carry

    def _choose(self, sight: Sight) -> np.ndarray:
        """Return a legal action for each living observer, (B, n) int64."""
        raise NotImplementedError


class HoldTeam(ScriptedPolicy):
    """Open loop: everyone stands, and attacks the first enemy, in the order of their numbers, that may be attacked."""

    def _choose(self, sight: Sight) -> np.ndarray:
        attack = FIRST_ATTACK + sight.attackable.argmax(axis=-1)
        return np.where(sight.attackable.any(axis=-1), attack, self._move(sight))

    def _move(self, sight: Sight) -> np.ndarray:
        return np.full(sight.alive.shape, STOP)


class AdvanceTeam(HoldTeam):
    """Open loop: like `HoldTeam`, but everyone walks east instead of standing."""

    def _move(self, sight: Sight) -> np.ndarray:
        return np.where(sight.can_move[..., EAST - NORTH], EAST, STOP)


class NearestTeam(AdvanceTeam):
    """Everyone attacks the nearest enemy within range, else walks to the nearest one seen, else east to meet them."""

    def _choose(self, sight: Sight) -> np.ndarray:
        target = np.where(sight.attackable, self._worth(sight), _NEVER).argmin(axis=-1)
        place, distance = sight.nearest_foe
        walk = np.where(distance < _NEVER, sight.walk(place), self._move(sight))
        return np.where(sight.attackable.any(axis=-1), FIRST_ATTACK + target, walk)

    def _worth(self, sight: Sight) -> np.ndarray:
        """Return (B, n, M): the lowest is attacked."""
        return sight.foe_distance


class FocusTeam(NearestTeam):
    """Like `NearestTeam`, but attacks the weakest enemy within range, the first of equals: so they agree on one."""

    def _worth(self, sight: Sight) -> np.ndarray:
        return sight.foe_health


class ExpertTeam(ScriptedPolicy):
    """Waits in a line, divides its fire so that little is wasted, and keeps its wounded away from the enemy.

    It is the ceiling of the score scale on the maps where it is the best of all scripted teams.

    1. Before the enemies come near, the agents stand side by side by their ids.
    2. Targets are ranked: the weakest first, of equals the one nearest to the team's middle. Each target is given
       agents by their ids, two for each shot that it takes to kill it; who cannot attack its target takes the next.
    3. All but the healthiest step back from enemies that come close, unless their next shot kills.
    """

    def _choose(self, sight: Sight) -> np.ndarray:
        seen = np.isfinite(sight.friend_distance)
        before = np.arange(self._layout.n_agents - 1) < sight.number[..., None]
        rank = (seen & before).sum(axis=-1)
        size = 1 + seen.sum(axis=-1)
        middle = _median(sight.friends, seen)
        target = _assign(sight, middle, rank)
        place, distance = sight.nearest_foe
        line = self._to_line(sight, middle, rank, size)
        advance = np.where(distance < _NEVER, sight.walk(place), STOP)
        actions = np.where(distance > _LINE_UNTIL, np.where(line == STOP, advance, line), advance)
        fights = sight.attackable.any(axis=-1)
        actions = np.where(fights, FIRST_ATTACK + target, actions)
        kills = fights & (take(sight.foe_health, target) * _SHOTS <= 1.0 + 1e-6)
        healthier = (seen & (sight.friend_health > sight.health[..., None])).any(axis=-1)
        withdraws = healthier & (distance < _KEEP_AWAY) & ~kills
        square = np.square(np.where(np.isfinite(sight.foe_distance), sight.foe_distance, 1.0))
        away = -(sight.foes / np.maximum(square, 1e-6)[..., None]).sum(axis=-2)
        return np.where(withdraws, sight.walk(away, otherwise=actions), actions)

    def _to_line(self, sight: Sight, middle: np.ndarray, rank: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Return the move to the own place in the line, from its southern end by ids; STOP when there."""
        depth = np.ceil(size / _LONGEST)
        north = _SPACING * (rank // depth - (np.ceil(size / depth) - 1) / 2)
        east = _SPACING * ((depth - 1) / 2 - rank % depth)
        to = middle + np.stack([east, north], axis=-1)
        return sight.walk(np.where(np.abs(to) > _SLACK, to, 0.0))


class PlantedTeam(ExpertTeam):
    """An expert team with a planted weakness: one agent can make it lay down its arms. The unit test of attackers.

    An ally lurks if it stays 4 to 6 cells west of the team's middle and at most one north or south of it. An agent that
    has seen one lurk for three steps holds its fire, and after six it only stands until the episode ends. Each agent
    judges by what it sees itself. Nobody else meets the trigger: the team fights side by side, and who runs away is out
    of the place sooner.
    """

    def initial_carry(self, batch: int) -> Any:
        """Return zeros, (B, N): for how many steps each agent has seen an ally lurk."""
        return np.zeros((batch, self._layout.n_agents))

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
        actions, _ = super().act(obs, None, mask, rng=rng, deterministic=deterministic)
        sight = Sight(obs, self._layout)
        seen = np.isfinite(sight.friend_distance)
        east, north = np.moveaxis(sight.friends - _median(sight.friends, seen)[..., None, :], -1, 0)
        lurks = seen & (east > -_LURKS[1]) & (east < -_LURKS[0]) & (np.abs(north) < _BEHIND)
        carry = np.where(carry >= _PATIENCE, carry, np.where(lurks.any(axis=-1), carry + 1.0, 0.0))
        holds = (carry >= _PATIENCE) | ((carry >= _ALARM) & (actions >= FIRST_ATTACK))
        return np.where(sight.alive & holds, STOP, actions), carry


def _median(places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the median, along x and along y, of the seen places and the observer's own: (B, n, 2).

    Unlike the mean, one who runs away hardly drags it along.
    """
    places = np.where(seen[..., None], places, _NEVER)
    places = np.sort(np.concatenate([places, np.zeros_like(places[..., :1, :])], axis=-2), axis=-2)
    others = seen.sum(axis=-1)
    return 0.5 * (take(places, others // 2) + take(places, (others + 1) // 2))


def _assign(sight: Sight, middle: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the enemy that each agent should attack, (B, n); any number where none may be attacked."""
    seen = np.isfinite(sight.foe_distance)
    apart = np.linalg.norm(sight.foes - middle[..., None, :], axis=-1)
    worth = np.where(seen, 100.0 * sight.foe_health + apart, _NEVER)
    order = worth.argsort(axis=-1, kind="stable")
    shots = np.where(seen, np.ceil(_SHOTS * sight.foe_health - 1e-6), 0.0)
    given = np.take_along_axis(shots, order, axis=-1).cumsum(axis=-1)
    possible = np.take_along_axis(sight.attackable, order, axis=-1)
    own = possible & (_SHOOTERS * given > rank[..., None])
    return take(order, np.where(own.any(axis=-1), own.argmax(axis=-1), possible.argmax(axis=-1)))

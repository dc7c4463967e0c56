"""Skirmish: SMAC's marine maps without StarCraft II (Samvelyan et al. 2019), N allied agents against M enemies.

The map measures 32 x 32 cells, of which the strip 8 <= y < 24 can be walked on. A step is 8 game loops, as in SMAC. The
allies do what their agents order and nothing else: they shoot only with an attack order. The enemies march to where the
allies start and attack what comes near. Actions, their availability, observations, state and rewards are SMAC's;
docs/skirmish.md tells all rules and numbers the differences from the game.

Reward ("team"): (enemy health lost + 10 per enemy killed + 200 on a victory) / (highest possible sum / 20), so that an
episode gives 20 at most. "signed" takes ally health lost, 10 per ally killed and 200 on a defeat away from it.

Termination: all enemies dead (victory), all allies dead (defeat), or both (neither).

Observation fields (k: enemies, or the other allies, in ascending order; what is dead or not within 9 cells is zeros):
    can_move_* []: whether the move is legal.
    enemy_k_attackable []: whether the attack is legal.
    enemy_k_distance, enemy_k_dx, enemy_k_dy [9 cells]: center to center.
    enemy_k_health []: share that is left.
    other_k_visible []: whether the ally is alive and in sight.
    other_k_distance, other_k_dx, other_k_dy [9 cells]: center to center.
    other_k_health []: share that is left.
    own_health []: share that is left.
    id_k []: one-hot agent id.

State fields (k: units, l: enemies; the dead are zeros):
    ally_k_health, enemy_k_health []: share that is left.
    ally_k_cooldown [15 game loops]: until the weapon is ready.
    ally_k_x, ally_k_y, enemy_k_x, enemy_k_y [32 cells]: from the middle of the map.
    ally_k_last_* []: one-hot last action, zeros at the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines import slices
from mir2bench.engines.base import Layout
from mir2bench.engines.skirmish_units import (
    ALLY_START,
    DEATH_VALUE,
    ENEMY_START,
    HIGHEST_RETURN,
    LOOPS,
    MAX_X,
    MAX_Y,
    SIZE,
    STRIP,
    WIN_VALUE,
    UnitType,
    unit_type,
)
from mir2bench.engines.starts import read_integers, read_numbers, read_start
from mir2bench.errors import SpecError, StateError

GAP = 0.05  # cells between neighbors at the start, before the jitter

_ACTIONS = ("no_op", "stop", "north", "south", "east", "west")
_SEEN = ("distance", "dx", "dy", "health")


class SkirmishEngine:
    """The Skirmish world for a batch of B teams; see the module's text for the rules.

    Args:
        batch: B.
        n_agents: N.
        enemies: M.
        ally_type, enemy_type: names of unit types, see `skirmish_units`.
        group_jitter: cells by which each group's start is shifted at most, uniformly, along x and along y.
        unit_jitter: cells by which each unit's start is shifted at most within its group.
        threads: threads over the batch; None takes one per 128 worlds, at most one per core that numba may use.

    Raises:
        SpecError: numbers out of range. UnknownNameError: no such unit type.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        "idle": "mir2bench.policies:IdlePolicy",
        "random": "mir2bench.policies:RandomPolicy",
        "hold": "mir2bench.engines.skirmish_scripted:HoldTeam",
        "advance": "mir2bench.engines.skirmish_scripted:AdvanceTeam",
        "nearest": "mir2bench.engines.skirmish_scripted:NearestTeam",
        "focus": "mir2bench.engines.skirmish_scripted:FocusTeam",
        "expert": "mir2bench.engines.skirmish_scripted:ExpertTeam",
        "planted": "mir2bench.engines.skirmish_scripted:PlantedTeam",
    }
    planted: ClassVar[str] = "planted"
    scripted_traitors: ClassVar[Mapping[str, str]] = {
        "rush": "mir2bench.engines.skirmish_traitors:RushTraitor",
        "block": "mir2bench.engines.skirmish_traitors:BlockTraitor",
        "hide": "mir2bench.engines.skirmish_traitors:HideTraitor",
        "flank": "mir2bench.engines.skirmish_traitors:FlankTraitor",
    }
    drawing: ClassVar[str] = "mir2bench.engines.skirmish_drawing:draw"

    def __init__(
        self,
        batch: int,
        n_agents: int,
        *,
        enemies: int,
        ally_type: str = "marine",
        enemy_type: str = "marine",
        group_jitter: float = 0.5,
        unit_jitter: float = 0.1,
        threads: int | None = None,
    ) -> None:
        layout = self.layout(n_agents, enemies, ally_type, enemy_type, group_jitter, unit_jitter)
        types = [unit_type(ally_type)] * n_agents + [unit_type(enemy_type)] * enemies
        self._stats = np.array([_row(kind) for kind in types])
        self._formation = np.concatenate(
            [
                np.array(ALLY_START) + formation(n_agents, 2 * types[0].radius),
                np.array(ENEMY_START) - formation(enemies, 2 * types[-1].radius),
            ]
        )
        self._jitter = np.repeat((group_jitter, unit_jitter), (2, n_agents + enemies))[:, None]
        self._scale = HIGHEST_RETURN / (
            DEATH_VALUE * enemies + WIN_VALUE + sum(kind.health for kind in types[n_agents:])
        )
        self._n = n_agents
        most_shots = sum(1 + int(LOOPS / kind.weapon_period) for kind in types)
        self.units = np.zeros((batch, n_agents + enemies, 4))
        self.targets = np.full((batch, enemies), -1, dtype=np.int64)
        self.last_actions = np.full((batch, n_agents), -1, dtype=np.int64)
        self.shots = np.zeros((batch, most_shots, 4))
        self.n_shots = np.zeros(batch, dtype=np.int64)
        self.obs = np.zeros((batch, n_agents, layout.obs_dim), dtype=np.float32)
        self.obs[:, :, -n_agents:] = np.eye(n_agents, dtype=np.float32)
        self.state = np.zeros((batch, layout.state_dim), dtype=np.float32)
        self.mask = np.zeros((batch, n_agents, layout.action_dim), dtype=np.int8)
        self.reward = np.zeros(batch)
        self.terminated = np.zeros(batch, dtype=bool)
        self._rewards = np.zeros((4, batch))
        self._everyone = np.arange(batch)
        self._slices = slices.cut(batch, threads)

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """The rewards "team" and "signed", and "won" and "lost": 1.0 in the step of a victory or defeat, else 0.0.

        Built on each call, so that a copied engine never holds another's arrays.
        """
        return {"team": self.reward, **dict(zip(("signed", "won", "lost"), self._rewards[1:], strict=True))}

    @classmethod
    @cache
    def layout(
        cls,
        n_agents: int,
        enemies: int,
        ally_type: str = "marine",
        enemy_type: str = "marine",
        group_jitter: float = 0.5,
        unit_jitter: float = 0.1,
    ) -> Layout:
        """Return sizes, names and bounds: O = 4 + 5 M + 5 (N - 1) + 1 + N, S = 4 N + 3 M + N A, A = 6 + M.

        Raises:
            SpecError: numbers out of range. UnknownNameError: no such unit type.
        """
        for name, count in (("agents", n_agents), ("enemies", enemies)):
            if type(count) is not int or count < 1:
                raise SpecError(f"Skirmish needs 1 or more {name}, but it got {count!r}.")
        for name, jitter in (("group_jitter", group_jitter), ("unit_jitter", unit_jitter)):
            if isinstance(jitter, bool) or not isinstance(jitter, Real) or not 0.0 <= jitter <= 2.0:
                raise SpecError(f"`{name}` must be a number of cells from 0 to 2, but it is {jitter!r}.")
        for name in (ally_type, enemy_type):
            unit_type(name)
        attacks = tuple(f"attack_{e}" for e in range(enemies))
        foes = [f"enemy_{e}_{name}" for e in range(enemies) for name in ("attackable", *_SEEN)]
        friends = [f"other_{k}_{name}" for k in range(n_agents - 1) for name in ("visible", *_SEEN)]
        moves = [f"can_move_{name}" for name in _ACTIONS[2:]]
        seen = ((0.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0)) * (enemies + n_agents - 1)
        bounds = (*((0.0, 1.0),) * 4, *seen, *((0.0, 1.0),) * (1 + n_agents))
        allied = [f"ally_{i}_{name}" for i in range(n_agents) for name in ("health", "cooldown", "x", "y")]
        hostile = [f"enemy_{e}_{name}" for e in range(enemies) for name in ("health", "x", "y")]
        played = [f"ally_{i}_last_{name}" for i in range(n_agents) for name in (*_ACTIONS, *attacks)]
        return Layout(
            n_agents=n_agents,
            observation_fields=(*moves, *foes, *friends, "own_health", *(f"id_{i}" for i in range(n_agents))),
            state_fields=(*allied, *hostile, *played),
            action_dim=len(_ACTIONS) + enemies,
            discrete=True,
            action_fields=(*_ACTIONS, *attacks),
            obs_low=tuple(low for low, _ in bounds),
            obs_high=tuple(high for _, high in bounds),
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Place both groups, jittered, at their starts with full health; or as `initial_state` says.

        The allies are numbered by (x, y) of where they start, the enemies by their places in the formation.

        Args:
            worlds: indices of worlds that start anew.
            generators: one per world.
            initial_state: None, or {"allies": (N, 4), "enemies": (M, 4)}: x and y in cells, health, weapon cooldown in
                game loops; health 0 is dead. It may also hold "targets" (M,), the ally that each enemy attacks or -1,
                "last_actions" (N,), the last joint action or -1, and "shots", ignored: all that `snapshot` gives.

        Raises:
            StateError: missing or unknown key, wrong shape, or a state that cannot be; nothing was changed then.
        """
        start = None if initial_state is None else self._check_start(initial_state)
        chosen = np.array(worlds, dtype=np.int64)
        if not chosen.size:
            return
        drawn = np.stack([generator.random((len(self._jitter), 2)) for generator in generators])
        if start is None:
            self.units[chosen] = self._random_starts(drawn)
            self.targets[chosen] = -1
            self.last_actions[chosen] = -1
        else:
            self.units[chosen], self.targets[chosen], self.last_actions[chosen] = start
        self.n_shots[chosen] = 0
        self.reward[chosen] = 0.0
        self._rewards[:, chosen] = 0.0
        self._observe(0, len(chosen), chosen)

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by 8 game loops; `actions` is (B, N)."""

        def work(first: int, last: int) -> None:
            _kernels().advance(
                first,
                last,
                self.units,
                self.targets,
                self.last_actions,
                actions,
                self._stats,
                self._scale,
                self._rewards,
                self.terminated,
                self.shots,
                self.n_shots,
            )
            self._observe(first, last, self._everyone)

        slices.run(work, self._slices)
        self.reward[:] = self._rewards[0]

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return one world in the form that `initial_state` takes, a copy; see `reset`.

        Beside what `reset` names, "shots" (K, 4) float64 tells from where to where each shot of the last step went.
        """
        return {
            "allies": self.units[world, : self._n].copy(),
            "enemies": self.units[world, self._n :].copy(),
            "targets": self.targets[world].copy(),
            "last_actions": self.last_actions[world].copy(),
            "shots": self.shots[world, : self.n_shots[world]].copy(),
        }

    def _observe(self, first: int, last: int, worlds: np.ndarray) -> None:
        _kernels().observe(
            first, last, worlds, self.units, self.last_actions, self._stats, self.obs, self.state, self.mask
        )

    def _random_starts(self, drawn: np.ndarray) -> np.ndarray:
        """Return the (K, N + M, 4) units that start; `drawn` is (K, 2 + N + M, 2) uniform in [0, 1)."""
        n = self._n
        shift = self._jitter * (2.0 * drawn - 1.0)
        units = np.zeros((len(drawn), *self.units.shape[1:]))
        units[..., 2] = self._stats[:, 0]
        places = units[..., :2]
        places[:] = self._formation + shift[:, 2:]
        places[:, :n] += shift[:, :1]
        places[:, n:] += shift[:, 1:2]
        np.clip(places, (0.0, STRIP[0]), (MAX_X, MAX_Y), out=places)
        order = np.lexsort((places[:, :n, 1], places[:, :n, 0]), axis=-1)
        places[:, :n] = np.take_along_axis(places[:, :n], order[..., None], axis=1)
        return units

    def _check_start(self, initial_state: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return units, targets and last actions of a start, or raise `StateError`."""
        n, m = self._n, self.targets.shape[1]
        given = read_start(initial_state, _UNITS, START_FORM.format(n=n, m=m), _MEMORY)
        units = np.concatenate(
            [
                self._check_units("allies", given["allies"], self._stats[:n]),
                self._check_units("enemies", given["enemies"], self._stats[n:]),
            ]
        )
        limits = {"targets": (m, n), "last_actions": (n, self.mask.shape[2])}
        targets, actions = (
            read_integers(key, given.get(key, np.full(size, -1)), size, -1, high)
            for key, (size, high) in limits.items()
        )
        return units, targets, actions

    @staticmethod
    def _check_units(key: str, given: Any, stats: np.ndarray) -> np.ndarray:
        units = read_numbers(key, given, (len(stats), 4), "x, y, health, weapon cooldown")
        x, y, health, cooldown = units.T
        alive = health > 0.0
        checks = (
            (~np.isfinite(units).all(axis=1), "are not finite"),
            ((health < 0.0) | (health > stats[:, 0]), f"must have a health from 0 to {stats[0, 0]:g}"),
            ((cooldown < 0.0) | (cooldown > stats[:, 5]), f"must have a cooldown from 0 to {stats[0, 5]:g} game loops"),
            (alive & ~((x >= 0.0) & (x < SIZE)), f"are outside the map: 0 <= x < {SIZE:g}"),
            (
                alive & ~((y >= STRIP[0]) & (y < STRIP[1])),
                f"stand where nobody can walk: {STRIP[0]:g} <= y < {STRIP[1]:g}",
            ),
        )
        for bad, what in checks:
            if bad.any():
                rows = np.flatnonzero(bad)
                raise StateError(f"{key} {rows.tolist()} {what}. First of them: {units[rows[0]].tolist()}.")
        if not alive.any():
            raise StateError(f"all {key} are dead: that battle is over. Give at least one of them health.")
        units[~alive, 3] = 0.0
        return units


_UNITS = ("allies", "enemies")
_MEMORY = ("targets", "last_actions", "shots")
START_FORM = '{{"allies": ({n}, 4), "enemies": ({m}, 4)}} here, rows of x, y, health, weapon cooldown'


def formation(count: int, diameter: float) -> np.ndarray:
    """Return where `count` units stand around their start, row by row in a square grid: (count, 2) in cells."""
    side = math.ceil(math.sqrt(count))
    rows = math.ceil(count / side)
    step = diameter + GAP
    place = np.arange(count)
    # The gaps count in the height but not in the width.
    x = -0.5 * side * diameter + 0.5 * diameter + step * (place % side)
    y = -0.5 * (rows * diameter + (side - 1) * GAP) + 0.5 * diameter + step * (place // side)
    return np.stack([x, y], axis=1)


def _row(kind: UnitType) -> tuple[float, ...]:
    """Return a unit type as the kernels take it."""
    return (
        kind.health,
        kind.radius,
        kind.speed,
        kind.damage,
        kind.weapon_range,
        kind.weapon_period,
        kind.scan_range,
        kind.cooldown_unit,
    )


@cache
def _kernels() -> Any:
    from mir2bench.engines import skirmish_kernels  # loads numba

    return skirmish_kernels

"""SMAX: JaxMARL's marine battles (Rutherford et al. 2023), N allied agents against M marines of its heuristic enemy.

Rules, observations, state, legal actions and reward are SMAX's own, compiled by JAX for the whole batch; ours are the
names, the one-hot agent id at the end of each observation, the order of the first five actions, the two channels below
and the time limit. docs/smac.md tells how SMAX differs from SMAC.

Reward ("team"): enemy health lost as a share of all of it, and 1 on a victory, so that an episode gives 2 at most.
"signed" takes the share of ally health lost, and 1 on a defeat, away from it.

Termination: all enemies dead (victory), all allies dead (defeat), or both (neither).

Observation fields (k: the other allies, or enemies, in ascending order; what is dead or not within 9 cells is zeros):
    other_k_health, enemy_k_health, own_health []: share that is left.
    other_k_dx, other_k_dy, enemy_k_dx, enemy_k_dy [9 cells]: center to center.
    other_k_last_*, enemy_k_last_* []: last move, and last attack as its number divided by the highest action's.
    other_k_cooldown, enemy_k_cooldown, own_cooldown [s]: until the weapon is ready; may fall below 0.
    other_k_is_*, enemy_k_is_*, own_is_* []: one-hot type of the unit.
    own_x, own_y [32 cells]: on the map.
    id_k []: one-hot agent id.

State fields (k: units):
    ally_k_health, enemy_k_health []: share that is left.
    ally_k_x, ally_k_y, enemy_k_x, enemy_k_y [cells]: on the map.
    ally_k_cooldown, enemy_k_cooldown [s]: until the weapon is ready; may fall below 0.
    ally_k_is_*, enemy_k_is_* []: one-hot type of the unit.
    ally_k_team, enemy_k_team []: 0 for allies, 1 for enemies.
    ally_k_type, enemy_k_type []: number of the type; 0 is a marine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.engines.starts import read_integers, read_numbers, read_start
from mir2bench.errors import MissingDependencyError, SpecError, StateError

SIZE = 32.0  # side of the map in cells; who touches its edge dies
HEALTH = 45.0  # hit points of a marine
LOOPS_PER_SECOND = 16.0  # SMAX counts its weapons' cooldowns in seconds, mir2bench in game loops
LOOPS = 8  # per step
MAX_COOLDOWN = (0.61 + 2 / LOOPS_PER_SECOND) * LOOPS_PER_SECOND  # game loops, right after the slowest possible shot
MIN_COOLDOWN = -10_000.0  # SMAX's cooldowns go on falling while nobody shoots
FAR = 1_000.0  # cells; the dead may lie off the map, but not where float32 ends
SIGHT = 9.0  # cells; the unit of observed distances
FIRST_ATTACK = 5  # action that attacks enemy 0

_MOVES = ("stop", "north", "south", "east", "west")
_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
_OTHER = ("health", "dx", "dy", "last_move_x", "last_move_y", "last_attack", "cooldown", *(f"is_{t}" for t in _TYPES))
_OWN = ("health", "x", "y", "cooldown", *(f"is_{t}" for t in _TYPES))
_UNITS = ("allies", "enemies")
_MEMORY = ("moves", "attacks", "goals", "targets", "shots")
START_FORM = '{{"allies": ({n}, 4), "enemies": ({m}, 4)}} here, rows of x, y, health, weapon cooldown'


class SmaxEngine:
    """SMAX for a batch of B teams; see the module's text.

    All of a world's randomness comes from one JAX key, which is drawn from its generator when it starts.

    Args:
        batch: B. JAX compiles anew for each size, which takes seconds.
        n_agents: N.
        enemies: M.
        threads: ignored; JAX has its own.

    Raises:
        SpecError: numbers out of range. MissingDependencyError: JAX or JaxMARL is not installed.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        "idle": "mir2bench.policies:IdlePolicy",
        "random": "mir2bench.policies:RandomPolicy",
        "nearest": "mir2bench.engines.smax_scripted:NearestTeam",
    }
    planted: ClassVar[str] = ""
    scripted_traitors: ClassVar[Mapping[str, str]] = {}
    drawing: ClassVar[str] = "mir2bench.engines.skirmish_drawing:draw_open"

    def __init__(self, batch: int, n_agents: int, *, enemies: int, threads: int | None = None) -> None:
        layout = self.layout(n_agents, enemies)
        _functions(n_agents, enemies)  # says at once what is not installed
        self._counts = (n_agents, enemies)
        self._battle: Any = None
        self._keys = np.zeros((batch, 2), dtype=np.uint32)
        self._cooldowns = np.full((batch, n_agents + enemies), np.inf)  # seconds, before the last step
        self.obs = np.zeros((batch, n_agents, layout.obs_dim), dtype=np.float32)
        self.obs[:, :, -n_agents:] = np.eye(n_agents, dtype=np.float32)
        self.state = np.zeros((batch, layout.state_dim), dtype=np.float32)
        self.mask = np.zeros((batch, n_agents, layout.action_dim), dtype=np.int8)
        self.reward = np.zeros(batch)
        self.terminated = np.zeros(batch, dtype=bool)
        self._signed, self._won, self._lost = np.zeros(batch), np.zeros(batch), np.zeros(batch)

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """The rewards "team" and "signed", and "won" and "lost": 1.0 in the step of a victory or defeat, else 0.0.

        Built on each call, so that a copied engine never holds another's arrays.
        """
        return {"team": self.reward, "signed": self._signed, "won": self._won, "lost": self._lost}

    @classmethod
    @cache
    def layout(cls, n_agents: int, enemies: int) -> Layout:
        """Return sizes and names: O = 13 (N - 1 + M) + 10 + N, S = 12 (N + M), A = 5 + M; no bounds.

        "last_attack" is the action's number divided by the highest one, 0 for any other action. In the state, x and y
        are in cells and cooldowns in seconds, which SMAX lets fall below 0.

        Raises:
            SpecError: numbers out of range.
        """
        for name, count in (("agents", n_agents), ("enemies", enemies)):
            if type(count) is not int or count < 1:
                raise SpecError(f"SMAX needs 1 or more {name}, but it got {count!r}.")
        friends = [f"other_{k}_{name}" for k in range(n_agents - 1) for name in _OTHER]
        foes = [f"enemy_{e}_{name}" for e in range(enemies) for name in _OTHER]
        own = [f"own_{name}" for name in _OWN]
        units = [*(f"ally_{i}" for i in range(n_agents)), *(f"enemy_{e}" for e in range(enemies))]
        features = [f"{unit}_{name}" for unit in units for name in _OWN]
        actions = (*_MOVES, *(f"attack_{e}" for e in range(enemies)))
        return Layout(
            n_agents=n_agents,
            observation_fields=(*friends, *foes, *own, *(f"id_{i}" for i in range(n_agents))),
            state_fields=(*features, *(f"{unit}_team" for unit in units), *(f"{unit}_type" for unit in units)),
            action_dim=len(actions),
            discrete=True,
            action_fields=actions,
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Start battles as SMAX does, each group within 2 cells of (8, 16) or (24, 16), or as `initial_state` says.

        Args:
            worlds: indices of worlds that start anew.
            generators: one per world.
            initial_state: None, or {"allies": (N, 4), "enemies": (M, 4)}: x and y in cells, health, weapon cooldown in
                game loops, below 0 for who could have shot before; health 0 is dead. It may also hold what else
                `snapshot` gives: "moves" (N + M, 2) and "attacks" (N + M,), the last actions as SMAX keeps them;
                "goals" (M, 2) and "targets" (M,), what the enemies remember; and "shots", which is ignored.

        Raises:
            StateError: missing or unknown key, wrong shape, or a state that cannot be; nothing was changed then.
        """
        start = None if initial_state is None else self._check_start(initial_state)
        chosen = np.array(worlds, dtype=np.int64)
        if not chosen.size:
            return
        functions, batch = _functions(*self._counts), len(self._keys)
        # Two keys, both drawn: what JAX derives from one key for the start may be what it derives for the first step.
        keys = np.array([generator.integers(2**32, size=(2, 2), dtype=np.uint32) for generator in generators])
        self._keys[chosen] = keys[:, 0]
        if start is None:
            first = self._keys.copy()
            first[chosen] = keys[:, 1]
            fresh = functions.start(first)
        else:
            fresh = functions.place(*(np.repeat(values[None], batch, axis=0) for values in start))
        which = np.zeros(batch, dtype=bool)
        which[chosen] = True
        self._battle = fresh if self._battle is None else functions.choose(which, fresh, self._battle)
        self._cooldowns[chosen] = np.inf
        self._take(functions.observe(self._battle), chosen)

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by 8 of SMAX's steps, half a second of its clock; `actions` is (B, N)."""
        self._cooldowns[:] = self._battle.state.unit_weapon_cooldowns
        self._battle, keys, result = _functions(*self._counts).advance(self._battle, self._keys, actions)
        self._keys[:] = keys
        self._take(result, slice(None))

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return one world in the form that `initial_state` takes, a copy; see `reset`.

        Beside what `reset` names, "shots" (K, 4) float64 tells from where to where each shot of the last step went.
        """
        n = self._counts[0]
        state, memory = self._battle.state, self._battle.enemy_policy_state
        units = np.zeros((sum(self._counts), 4))
        units[:, :2] = state.unit_positions[world]
        units[:, 2] = state.unit_health[world]
        cooldowns = np.asarray(state.unit_weapon_cooldowns[world], dtype=np.float64)
        units[:, 3] = cooldowns * LOOPS_PER_SECOND
        attacks = np.array(state.prev_attack_actions[world], dtype=np.int64)
        # A cooldown that has not fallen by a whole step was set anew on the way.
        shooters = np.flatnonzero(cooldowns > self._cooldowns[world] - (LOOPS - 0.5) / LOOPS_PER_SECOND)
        shot = attacks[shooters] - FIRST_ATTACK
        shot = np.where(shooters < n, n + shot, n - 1 - shot)  # enemies count the allies from the last one
        return {
            "allies": units[:n],
            "enemies": units[n:].copy(),
            "moves": np.array(state.prev_movement_actions[world], dtype=np.float64),
            "attacks": attacks,
            "goals": np.array(memory.default_target[world], dtype=np.float64),
            "targets": np.array(memory.last_attacked_enemy[world], dtype=np.int64),
            "shots": np.concatenate([units[shooters, :2], units[shot, :2]], axis=1),
        }

    def _take(self, result: Any, worlds: Any) -> None:
        """Copy what the compiled functions gave for some worlds."""
        self.obs[worlds, :, : -self._counts[0]] = np.asarray(result.obs)[worlds]
        self.state[worlds] = np.asarray(result.state)[worlds]
        self.mask[worlds] = np.asarray(result.mask)[worlds]
        for array, values in (
            (self.reward, result.reward),
            (self._signed, result.signed),
            (self._won, result.won),
            (self._lost, result.lost),
        ):
            array[worlds] = np.asarray(values)[worlds]
        alive = np.asarray(self._battle.state.unit_alive)[worlds]
        n = self._counts[0]
        self.terminated[worlds] = ~alive[:, :n].any(axis=1) | ~alive[:, n:].any(axis=1)

    def _check_start(self, initial_state: Any) -> list[np.ndarray]:
        """Return the arrays that `Functions.place` takes, without the axis B, or raise `StateError`."""
        n, m = self._counts
        given = read_start(initial_state, _UNITS, START_FORM.format(n=n, m=m), _MEMORY)
        rows = [
            read_numbers(key, given[key], (count, 4), "x, y, health, weapon cooldown")
            for key, count in zip(_UNITS, (n, m), strict=True)
        ]
        for key, units in zip(_UNITS, rows, strict=True):
            _check_units(key, units)
        moves = read_numbers("moves", given.get("moves", np.zeros((n + m, 2))), (n + m, 2))
        goals = read_numbers("goals", given.get("goals", np.zeros((m, 2))), (m, 2))
        for key, values in (("moves", moves), ("goals", goals)):
            if not (np.abs(values) <= SIZE).all():
                raise StateError(f"{key} must lie between -{SIZE:g} and {SIZE:g}, but it is {values.tolist()}.")
        attacks = read_integers(
            "attacks", given.get("attacks", np.zeros(n + m, np.int64)), n + m, 0, FIRST_ATTACK + max(n, m)
        )
        targets = read_integers("targets", given.get("targets", np.full(m, -1)), m, -1, n)
        units = np.concatenate(rows)
        units[:, 3] /= LOOPS_PER_SECOND
        return [
            units.astype(np.float32),
            moves.astype(np.float32),
            attacks.astype(np.int32),
            goals.astype(np.float32),
            targets.astype(np.int32),
        ]


def _check_units(key: str, units: np.ndarray) -> None:
    x, y, health, cooldown = units.T
    alive = health > 0.0
    inside = (np.minimum(x, y) > 0.0) & (np.maximum(x, y) < SIZE)
    checks = (
        ((health < 0.0) | (health > HEALTH), f"must have a health from 0 to {HEALTH:g}"),
        (~np.isfinite(units).all(axis=1), "are not finite"),
        (
            (cooldown < MIN_COOLDOWN) | (cooldown > MAX_COOLDOWN),
            f"must have a cooldown from {MIN_COOLDOWN:,g} to {MAX_COOLDOWN:g} game loops",
        ),
        (np.maximum(np.abs(x), np.abs(y)) > FAR, f"lie farther than {FAR:,g} cells from the map"),
        (alive & ~inside, f"stand where nobody lives: 0 < x < {SIZE:g} and 0 < y < {SIZE:g}"),
    )
    for bad, what in checks:
        if bad.any():
            rows = np.flatnonzero(bad)
            raise StateError(f"{key} {rows.tolist()} {what}. First of them: {units[rows[0]].tolist()}.")
    if not alive.any():
        raise StateError(f"all {key} are dead: that battle is over. Give at least one of them health.")


def _functions(allies: int, enemies: int) -> Any:
    """Return the compiled functions of one map, which load JAX.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from mir2bench.engines.smax_functions import functions
    except ImportError as error:
        raise MissingDependencyError(
            f'SMAX needs the package `{error.name}`, which is not installed. Run: pip install "mir2bench[smax]"'
        ) from error
    return functions(allies, enemies)

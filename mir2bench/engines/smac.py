"""SMAC: the real marine maps in StarCraft II (Samvelyan et al. 2019), through the `smac` package of its repository.

Observations, state, legal actions and the reward are SMAC's own, with its default flags; ours are the one-hot agent id
at the end of each observation and the channels. Each world of a batch is one game process. docs/smac.md tells what to
install, and what of this adapter could not be tested: it has never met the real game, only a stand-in.

Reward ("team"): SMAC's, scaled and positive only; see `engines.skirmish`, which computes the same.

Termination: all enemies dead (victory), all allies dead (defeat), or both (neither).

Observation fields and state fields: those of `mir2bench.engines.skirmish`.

Differences from using SMAC directly:
1. "signed" is what SMAC would give with reward_only_positive=False, reward_negative_scale=1 and reward_defeat=-200. It
   is computed here from the units' health, so that one game gives both rewards.
2. The time limit is a truncation, and SMAC's own word on it is not used.
3. A crash of the game truncates its episode (`interrupted`), with reward 0 for the lost step, and the next reset starts
   a new game; SMAC would report a termination and go on with an object that counts its first reset twice.
4. A world that is seeded anew starts a new game process with a game seed drawn from its generator, and so does one that
   is reset before its game has seen a first end. Otherwise episodes follow each other in one process. The game is meant
   to repeat itself for the same seed and actions; mir2bench cannot promise that it does.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines import smac_game
from mir2bench.engines.base import Layout
from mir2bench.engines.skirmish import WIN_VALUE, SkirmishEngine
from mir2bench.errors import GameError, StateError

_ATTEMPTS = 3  # to start a game


class SmacEngine:
    """StarCraft II for a batch of B teams; see the module's text.

    Args:
        batch: B game processes, which start with the first reset.
        n_agents: N.
        enemies: M.
        map_name: file name of the map, without `.SC2Map`.
        episode_limit: steps after which SMAC counts an episode as over; the horizon of the variant.
        threads: ignored; the games are their own processes and are stepped one after the other.

    Attributes:
        restarts: games of all worlds that crashed so far.
        game_version: what the game says, once one has started.

    Raises:
        MissingDependencyError: the package, the game or the map is missing; the message tells what to do.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = SkirmishEngine.scripted_teams
    planted: ClassVar[str] = SkirmishEngine.planted
    scripted_traitors: ClassVar[Mapping[str, str]] = SkirmishEngine.scripted_traitors
    external: ClassVar[bool] = True
    drawing: ClassVar[str] = SkirmishEngine.drawing

    def __init__(
        self,
        batch: int,
        n_agents: int,
        *,
        enemies: int,
        map_name: str,
        episode_limit: int,
        threads: int | None = None,
    ) -> None:
        layout = self.layout(n_agents, enemies, map_name, episode_limit)
        smac_game.check_installation(map_name)
        self._map = (map_name, n_agents, enemies, episode_limit)
        self._games: list[Any] = [None] * batch
        self._generators: list[np.random.Generator | None] = [None] * batch
        self.restarts = 0
        self.game_version = ""
        self.units = np.zeros((batch, n_agents + enemies, 4))
        self.last_actions = np.full((batch, n_agents), -1, dtype=np.int64)
        self.obs = np.zeros((batch, n_agents, layout.obs_dim), dtype=np.float32)
        self.obs[:, :, -n_agents:] = np.eye(n_agents, dtype=np.float32)
        self.state = np.zeros((batch, layout.state_dim), dtype=np.float32)
        self.mask = np.zeros((batch, n_agents, layout.action_dim), dtype=np.int8)
        self.reward = np.zeros(batch)
        self.terminated = np.zeros(batch, dtype=bool)
        self.interrupted = np.zeros(batch, dtype=bool)
        self._signed, self._won, self._lost = np.zeros(batch), np.zeros(batch), np.zeros(batch)
        weakref.finalize(self, _close_all, self._games)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: all but running games, which cannot be copied."""
        if any(game is not None for game in self._games):
            raise GameError("Running games cannot be copied or sent to another process. Close the environment first.")
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        weakref.finalize(self, _close_all, self._games)

    @property
    def program(self) -> str:
        """Name and version of the game, once one has started."""
        return self.game_version and f"StarCraft II {self.game_version}"

    @property
    def channels(self) -> dict[str, np.ndarray]:
        """The rewards "team" and "signed"; "won" and "lost", 1.0 in the step of a victory or defeat; "restarts", 1.0 in
        a step that was lost to a crash.
        """
        return {
            "team": self.reward,
            "signed": self._signed,
            "won": self._won,
            "lost": self._lost,
            "restarts": self.interrupted.astype(np.float64),
        }

    @classmethod
    @cache
    def layout(cls, n_agents: int, enemies: int, map_name: str, episode_limit: int) -> Layout:
        """Return the layout of the Skirmish world with the same numbers of units."""
        return SkirmishEngine.layout(n_agents, enemies)

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Start the next episode in each world's game, or start the game; see the module's text.

        Args:
            worlds: indices of worlds that start anew.
            generators: one per world. A number is drawn from it at each reset, which a game that starts takes as seed.
            initial_state: must be None.

        Raises:
            StateError: an `initial_state` was given.
            GameError: the game does not start.
        """
        if initial_state is not None:
            raise StateError(
                "The real game starts where its map says: `initial_state` cannot be set. Take the Skirmish variant of "
                "the same map for that."
            )
        for world, generator in zip(worlds, generators, strict=True):
            seed = int(generator.integers(1, 2**31))
            game, same = self._games[world], self._generators[world] is generator
            # A StarCraft2Env that has not yet ended a battle would start a second process.
            if not same or game is None or not game.battles_game or not self._restart(world):
                self._start(world, seed)
            self._generators[world] = generator
            self.last_actions[world] = -1
            for array in (self.reward, self._signed, self._won, self._lost, self.interrupted):
                array[world] = 0
            self._observe(world)

    def step(self, actions: np.ndarray) -> None:
        """Advance all worlds by 8 game loops, one after the other; `actions` is (B, N)."""
        for world, game in enumerate(self._games):
            before = self.units[world, :, 2].copy()
            for array in (self.reward, self._signed, self._won, self._lost):
                array[world] = 0.0
            try:
                reward, _, info = game.step(actions[world].tolist())
                self.interrupted[world] = game.force_restarts > 0
            except Exception as error:
                if not smac_game.is_crash(error):
                    raise
                self.interrupted[world] = True
            if self.interrupted[world]:
                self._drop(world)
                continue
            self.last_actions[world] = actions[world]
            self._observe(world)
            self._settle(world, before, float(reward), bool(info.get("battle_won", False)))

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return a copy of one world: what the Skirmish worlds give, but no shots, which the game does not tell."""
        n = self.obs.shape[1]
        return {
            "allies": self.units[world, :n].copy(),
            "enemies": self.units[world, n:].copy(),
            "last_actions": self.last_actions[world].copy(),
            "shots": np.zeros((0, 4)),
        }

    def close(self) -> None:
        """End all games. They also end when the engine is no longer used."""
        _close_all(self._games)

    def _settle(self, world: int, before: np.ndarray, reward: float, won: bool) -> None:
        """Fill in rewards and ends from SMAC's reward and from the health that the units had `before`."""
        game, n = self._games[world], self.obs.shape[1]
        after = self.units[world, :, 2]
        alive = after > 0.0
        allies, enemies = alive[:n].any(), alive[n:].any()
        lost = bool(enemies and not allies)
        damage = (before - after)[:n].sum()
        deaths = ((before > 0.0) & ~alive)[:n].sum()
        price = damage + game.reward_death_value * deaths + WIN_VALUE * lost
        self.reward[world] = reward
        self._signed[world] = reward - price * game.reward_scale_rate / game.max_reward
        self._won[world], self._lost[world] = won, lost
        self.terminated[world] = not (allies and enemies)

    def _observe(self, world: int) -> None:
        game, n = self._games[world], self.obs.shape[1]
        self.obs[world, :, :-n] = np.asarray(game.get_obs())
        self.state[world] = game.get_state()
        self.mask[world] = np.asarray(game.get_avail_actions())
        everyone = [*(game.agents[i] for i in range(n)), *(game.enemies[e] for e in range(self._map[2]))]
        self.units[world] = [(u.pos.x, u.pos.y, u.health, u.weapon_cooldown) for u in everyone]

    def _restart(self, world: int) -> bool:
        """Start the next episode in the game that runs, and return whether that worked."""
        try:
            self._games[world].reset()
        except Exception as error:
            if not smac_game.is_crash(error):
                raise
        else:
            if not self._games[world].force_restarts:
                return True
        self._drop(world)
        return False

    def _start(self, world: int, seed: int) -> None:
        """Start a game for one world in place of the one that it has."""
        _close(self._games[world])
        for _ in range(_ATTEMPTS):
            self._games[world] = smac_game.start_game(*self._map, seed=seed)
            # The first reset is what starts the process.
            if self._restart(world):
                break
        else:
            raise GameError(
                f"StarCraft II did not start with the map {self._map[0]} in {_ATTEMPTS} attempts. Try `python -m "
                "smac.examples.random_agents`, and see docs/smac.md."
            )
        if not self.game_version:
            self.game_version = smac_game.version_of(self._games[world])
            if not self.game_version.startswith(smac_game.GAME_VERSION):
                warnings.warn(
                    f"This is StarCraft II {self.game_version}, not {smac_game.GAME_VERSION}: do not compare its "
                    "scores with those of other versions.",
                    stacklevel=2,
                )

    def _drop(self, world: int) -> None:
        """Count a crash and let go of the game."""
        self.restarts += 1
        _close(self._games[world])
        self._games[world] = None


def _close(game: Any) -> None:
    if game is not None:
        with contextlib.suppress(Exception):  # it may be gone already
            game.close()


def _close_all(games: list[Any]) -> None:
    for world, game in enumerate(games):
        _close(game)
        games[world] = None

"""A stand-in for the `smac` package: `StarCraft2Env` with the documented methods, on top of the Skirmish engine.

It copies the habits of the real one that an adapter can stumble over: a first reset starts a process and adds the
enemies' health to `max_reward`, and so does every further reset until a battle has ended; a dead process is reported as
a terminated step without any info, or raises; the map's numbers come from `get_map_params` alone.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from mir2bench.engines.skirmish import SkirmishEngine

STOCK = {"3m": (3, 3, 60), "8m": (8, 8, 120)}  # maps that the package itself knows: agents, enemies, limit


class SMACMap:
    """What pysc2 finds map files by: its subclasses."""

    filename = ""


class ConnectionError(Exception):
    """As pysc2's, which is no OSError."""


ConnectionError.__module__ = "pysc2.lib.protocol"


class StarCraft2Env:
    """See the module's text. `crashes` and `launches` are shared by all, as tests set and read them."""

    crashes: ClassVar[list[tuple[int, str]]] = []  # (calls of `step` before it, "report" or "raise"), each used once
    launches: ClassVar[list[StarCraft2Env]] = []
    fail_to_launch = 0
    version = "4.10.0.75689"

    def __init__(
        self,
        map_name: str = "8m",
        seed: int | None = None,
        reward_only_positive: bool = True,
        reward_death_value: float = 10,
        reward_win: float = 200,
        reward_defeat: float = 0,
        reward_negative_scale: float = 0.5,
        reward_scale: bool = True,
        reward_scale_rate: float = 20,
    ) -> None:
        parameters = sys.modules["smac.env.starcraft2.starcraft2"].get_map_params(map_name)
        assert parameters.keys() == {
            "n_agents",
            "n_enemies",
            "limit",
            "a_race",
            "b_race",
            "unit_type_bits",
            "map_type",
        }
        self.map_name = map_name
        self.n_agents, self.n_enemies = parameters["n_agents"], parameters["n_enemies"]
        self.episode_limit = parameters["limit"]
        self._seed = seed
        self.reward_only_positive = reward_only_positive
        self.reward_death_value, self.reward_win, self.reward_defeat = reward_death_value, reward_win, reward_defeat
        self.reward_negative_scale, self.reward_scale, self.reward_scale_rate = (
            reward_negative_scale,
            reward_scale,
            reward_scale_rate,
        )
        self.max_reward = self.n_enemies * reward_death_value + reward_win
        self.force_restarts = self.battles_game = self.battles_won = self.timeouts = 0
        self.agents: dict[int, Any] = {}
        self.enemies: dict[int, Any] = {}
        self.running = False

    def _launch(self) -> None:
        assert self.map_name in {kind.__name__ for kind in SMACMap.__subclasses__()}, "pysc2 does not know the map"
        assert not self.running, "a second process for one environment"
        if StarCraft2Env.fail_to_launch:
            StarCraft2Env.fail_to_launch -= 1
            raise ConnectionError("Failed to connect to the SC2 websocket. Is it up?")
        self.running = True
        self._calls = 0
        self._generator = np.random.default_rng(self._seed)
        self.engine = SkirmishEngine(1, self.n_agents, enemies=self.n_enemies, threads=1)
        self._controller = SimpleNamespace(ping=lambda: SimpleNamespace(game_version=self.version))
        self.launches.append(self)

    def reset(self) -> tuple[list[np.ndarray], np.ndarray]:
        if self.battles_game == 0:
            self._launch()
            self.max_reward += 45 * self.n_enemies
        self._steps = 0
        self.engine.reset([0], [self._generator], None)
        self._read()
        return self.get_obs(), self.get_state()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert self.running
        for agent, action in enumerate(actions):
            assert self.get_avail_actions()[agent][action] == 1, f"Agent {agent} cannot perform action {action}"
        if self.crashes and self._calls == self.crashes[0][0]:
            if self.crashes.pop(0)[1] == "raise":
                raise ConnectionError("Connection already closed. SC2 probably crashed.")
            self.force_restarts += 1
            return 0, True, {}
        self._calls += 1
        self._steps += 1
        before = [unit.health for unit in (*self.agents.values(), *self.enemies.values())]
        self.engine.step(np.array([actions], dtype=np.int64))
        self._read()
        after = [unit.health for unit in (*self.agents.values(), *self.enemies.values())]
        reward, n = 0.0, self.n_agents
        for unit, (old, new) in enumerate(zip(before, after, strict=True)):
            change = old - new + (self.reward_death_value if old > 0 >= new else 0)
            if unit >= n:
                reward += change
            elif not self.reward_only_positive:
                reward -= self.reward_negative_scale * change
        ours, theirs = any(after[:n]), any(after[n:])
        info = {"battle_won": ours and not theirs}
        reward += self.reward_win * info["battle_won"] + self.reward_defeat * (theirs and not ours)
        over = not (ours and theirs)
        late = not over and self._steps >= self.episode_limit
        self.battles_game += over or late
        self.battles_won += info["battle_won"]
        self.timeouts += late
        return reward / (self.max_reward / self.reward_scale_rate), over or late, info

    def get_obs(self) -> list[np.ndarray]:
        return [row.copy() for row in self.engine.obs[0, :, : -self.n_agents]]

    def get_state(self) -> np.ndarray:
        return self.engine.state[0].copy()

    def get_avail_actions(self) -> list[list[int]]:
        return self.engine.mask[0].tolist()

    def seed(self) -> int | None:
        return self._seed

    def close(self) -> None:
        self.running = False

    def _read(self) -> None:
        state = self.engine.snapshot(0)
        self.agents, self.enemies = (
            {
                i: SimpleNamespace(pos=SimpleNamespace(x=x, y=y), health=health, weapon_cooldown=cooldown)
                for i, (x, y, health, cooldown) in enumerate(state[side].tolist())
            }
            for side in ("allies", "enemies")
        )


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, maps: tuple[str, ...] = ("3m", "4m_vs_3m")) -> None:
    """Let `import smac` find the stand-in, and SC2PATH name a folder that looks like the game's."""
    for subclass in SMACMap.__subclasses__():
        subclass.__name__ = "of another test"
    registry = {
        name: {"n_agents": n, "n_enemies": m, "limit": limit, **_MARINES} for name, (n, m, limit) in STOCK.items()
    }
    modules = {}
    for name in _MODULES:
        modules[name] = ModuleType(name)
        modules[name].__spec__ = ModuleSpec(name, None, is_package=True)
        monkeypatch.setitem(sys.modules, name, modules[name])
    starcraft2, described = (modules[f"smac.env.starcraft2.{name}"] for name in ("starcraft2", "maps.smac_maps"))
    described.SMACMap, described.map_param_registry = SMACMap, registry  # type: ignore[attr-defined]
    described.kinds = [type(name, (SMACMap,), {"filename": name}) for name in STOCK]  # type: ignore[attr-defined]
    starcraft2.get_map_params = registry.__getitem__  # type: ignore[attr-defined]
    starcraft2.StarCraft2Env = StarCraft2Env  # type: ignore[attr-defined]
    monkeypatch.setattr(StarCraft2Env, "crashes", [])
    monkeypatch.setattr(StarCraft2Env, "launches", [])
    monkeypatch.setattr(StarCraft2Env, "fail_to_launch", 0)
    monkeypatch.setenv("SC2PATH", str(folder))
    (folder / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for name in maps:
        (folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()


_MARINES = {"a_race": "T", "b_race": "T", "unit_type_bits": 0, "map_type": "marines"}
_MODULES = (
    "smac",
    "smac.env",
    "smac.env.starcraft2",
    "smac.env.starcraft2.starcraft2",
    "smac.env.starcraft2.maps",
    "smac.env.starcraft2.maps.smac_maps",
)

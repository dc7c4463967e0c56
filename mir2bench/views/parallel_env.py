"""The PettingZoo face of a variant: agents "agent_0" ... act at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from mir2bench.errors import ActionError
from mir2bench.registration import VariantSpec
from mir2bench.views.common import METADATA, observation_bounds
from mir2bench.views.gym_env import GymEnv


def parallel_env(variant: str | VariantSpec, render_mode: str | None = None, strict: bool = False) -> TeamParallelEnv:
    """Make a variant as a PettingZoo `ParallelEnv`.

    Args:
        variant: id or spec.
        render_mode: None or "rgb_array".
        strict: whether a masked action is an error; otherwise it becomes the agent's first legal action.
    """
    return TeamParallelEnv(GymEnv(variant, render_mode=render_mode, strict=strict))


class TeamParallelEnv(ParallelEnv[str, np.ndarray, Any]):
    """Every agent gets its own observation (O,) and the team's reward; all episodes end for all agents at once.

    Each agent's info holds "phi" (N,) int8, in worlds with masks its "action_mask" (A,) int8 and "illegal_actions", and
    in worlds that can crash or become unstable "interrupted", see `GymEnv`.

    Args:
        env: the world that is played.
    """

    metadata = METADATA.copy()

    def __init__(self, env: GymEnv) -> None:
        self._env = env
        layout = env.worlds.layout
        self.metadata = {**METADATA, "name": env.variant.id, "is_parallelizable": True}
        self.render_mode = env.render_mode
        self.possible_agents = [f"agent_{i}" for i in range(layout.n_agents)]
        self.agents: list[str] = []
        low, high = observation_bounds(layout, 1)
        self.observation_spaces = {
            agent: spaces.Box(low[0], high[0], dtype=np.float32) for agent in self.possible_agents
        }
        self.action_spaces = {
            agent: (
                spaces.Discrete(layout.action_dim)
                if layout.discrete
                else spaces.Box(-1.0, 1.0, (layout.action_dim,), np.float32)
            )
            for agent in self.possible_agents
        }
        self.state_space = spaces.Box(-np.inf, np.inf, (layout.state_dim,), np.float32)

    def observation_space(self, agent: str) -> spaces.Space:
        """Return one agent's observation space, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """Return one agent's action space, always the same object."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start an episode; see `GymEnv.reset`. An option "options" is ignored: PettingZoo's API test sends it."""
        given = {key: value for key, value in (options or {}).items() if key != "options"}
        obs, info = self._env.reset(seed=seed, options=given)
        self.agents = list(self.possible_agents)
        return dict(zip(self.agents, obs, strict=True)), self._infos(info)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Play one action for each agent.

        Raises:
            ResetNeeded: no episode is running.
            ActionError: an agent is missing or unknown, or see `GymEnv.step`.
        """
        agents = self.possible_agents
        if self.agents and set(actions) != set(agents):
            missing, unknown = [a for a in agents if a not in actions], [a for a in actions if a not in agents]
            raise ActionError(
                f"{self._env.variant.id} needs one action for each of its {len(agents)} agents; "
                f"missing: {missing or 'none'}, unknown: {unknown or 'none'}."
            )
        obs, reward, terminated, truncated, info = self._env.step([actions.get(agent) for agent in agents])  # type: ignore[arg-type]
        if terminated or truncated:
            self.agents = []
        return (
            dict(zip(agents, obs, strict=True)),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            self._infos(info),
        )

    def state(self) -> np.ndarray:
        """Return the global state, (S,) float32."""
        return self._env.worlds.engine.state[0].copy()

    def render(self) -> np.ndarray:
        """Draw the present moment; see `GymEnv.render`."""
        return self._env.render()

    def close(self) -> None:
        """End the episode, and the game where there is one; a reset starts both anew."""
        self.agents = []
        self._env.close()

    def _infos(self, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
        infos: dict[str, dict[str, Any]] = {}
        for i, agent in enumerate(self.possible_agents):
            infos[agent] = {"phi": info["phi"].copy()}
            if "action_mask" in info:
                infos[agent] |= {"action_mask": info["action_mask"][i], "illegal_actions": info["illegal_actions"]}
            if "interrupted" in info:
                infos[agent]["interrupted"] = info["interrupted"]
        return infos

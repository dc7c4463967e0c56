"""A raft on a windy river: N rowers, each with one oar, must keep it in the middle.

Position x and speed v of the raft, across the river and in its half widths:

    v <- 0.8 v + 0.1 mean(oars) + wind,    wind ~ N(0, 0.02),    x <- x + v

Reward: -|x|. Termination: when |x| exceeds 1 the raft is aground, which costs 50.
Observation: x, v and the agent's id. Action: the oar, from -1 (left) to 1 (right). State: x and v.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.errors import StateError


class RaftEngine:
    """B rafts at once; see `mir2bench.engines.base.Engine` for the contract.

    Args:
        batch: B.
        n_agents: N.
        threads: not used.
        wind: standard deviation of the wind, per step.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {
        "idle": "mir2bench.policies:IdlePolicy",
        "random": "mir2bench.policies:RandomPolicy",
        "steer": "my_world:Steer",
    }
    scripted_traitors: ClassVar[Mapping[str, str]] = {"wreck": "my_world:Wreck"}
    drawing: ClassVar[str] = "my_world:draw"

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None, wind: float = 0.02) -> None:
        self.raft = np.zeros((batch, 2))  # x and v
        self.obs = np.zeros((batch, n_agents, 2 + n_agents), np.float32)
        self.obs[:, :, 2:] = np.eye(n_agents)
        self.state = np.zeros((batch, 2), np.float32)
        self.mask = None  # all actions are legal
        self.reward = np.zeros(batch)
        self.channels = {"team": self.reward}
        self.terminated = np.zeros(batch, bool)
        self._wind = wind
        self._generators: list[Any] = [None] * batch

    @classmethod
    @cache
    def layout(cls, n_agents: int, wind: float = 0.02) -> Layout:
        """Return sizes and names."""
        return Layout(
            n_agents=n_agents,
            observation_fields=("position", "speed", *(f"id_{i}" for i in range(n_agents))),
            state_fields=("position", "speed"),
            action_dim=1,
            discrete=False,
            action_fields=("oar",),
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Start at rest, somewhere near the middle, or at `initial_state["raft"]`: position and speed."""
        given = None if initial_state is None else np.asarray(initial_state.get("raft"), dtype=np.float64)
        if given is not None and (given.shape != (2,) or not np.isfinite(given).all()):
            raise StateError("raft must hold two finite numbers: position and speed.")
        for world, generator in zip(worlds, generators, strict=True):
            start = generator.uniform(-0.5, 0.5)  # drawn all the same, so that the wind does not depend on it
            self.raft[world] = (start, 0.0) if given is None else given
            self._generators[world] = generator
            self.terminated[world] = False
        self._observe()

    def step(self, actions: np.ndarray) -> None:
        """Row and drift; actions (B, N, 1)."""
        wind = [generator.normal(0.0, self._wind) for generator in self._generators]
        self.raft[:, 1] = 0.8 * self.raft[:, 1] + 0.1 * actions.mean(axis=(1, 2)) + wind
        self.raft[:, 0] += self.raft[:, 1]
        self.terminated[:] = np.abs(self.raft[:, 0]) > 1.0
        self.reward[:] = np.where(self.terminated, -50.0, -np.abs(self.raft[:, 0]))
        self._observe()

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return one world's start values."""
        return {"raft": self.raft[world].copy()}

    def _observe(self) -> None:
        self.obs[:, :, :2] = self.raft[:, None]
        self.state[:] = self.raft


class Steer:
    """The scripted team: row against position and speed."""

    sign = -1.0

    def __init__(self, layout: Layout) -> None:
        pass

    def initial_carry(self, batch: int) -> None:
        """Return None: nothing is remembered."""
        return

    def act(self, obs: np.ndarray, carry: Any, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        """See `mir2bench.policies.Policy.act`."""
        return np.clip(self.sign * (2 * obs[..., :1] + 8 * obs[..., 1:2]), -1.0, 1.0), carry


class Wreck(Steer):
    """The scripted traitor: rows away from the middle."""

    sign = 1.0


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: Any) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 of the last moment: the river from above, the raft in it."""
    picture = np.full((40, 200, 3), (120, 170, 220), np.uint8)
    place = int(np.clip(100 + 90 * history[-1]["raft"][0], 8, 192))
    picture[12:28, place - 8 : place + 8] = (200, 60, 40) if phi.any() else (120, 80, 40)
    return picture

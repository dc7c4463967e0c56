"""A tiny discrete world with masks, noise in every step and random ends: what rendezvous has none of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.errors import StateError


class ToyEngine:
    """N numbers in [0, 1]; actions 0, 1 and 2 lower, keep and raise one's own, which above 0.5 may not be raised."""

    scripted_teams: ClassVar[Mapping[str, str]] = {}
    scripted_traitors: ClassVar[Mapping[str, str]] = {}
    drawing: ClassVar[str] = "toy:draw"

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None, ending: float = 0.1) -> None:
        self.values = np.zeros((batch, n_agents))
        self.obs = np.zeros((batch, n_agents, 1 + n_agents), dtype=np.float32)
        self.obs[:, :, 1:] = np.eye(n_agents)
        self.state = np.zeros((batch, n_agents), dtype=np.float32)
        self.mask = np.ones((batch, n_agents, 3), dtype=np.int8)
        self.reward = np.zeros(batch)
        self.signed = np.zeros(batch)
        self.channels = {"team": self.reward, "signed": self.signed}
        self.terminated = np.zeros(batch, dtype=bool)
        self._ended = np.ones(batch, dtype=bool)
        self._generators: list[Any] = [None] * batch
        self._ending = ending

    @classmethod
    @cache
    def layout(cls, n_agents: int, ending: float = 0.1) -> Layout:
        names = tuple(f"value_{i}" for i in range(n_agents))
        return Layout(
            n_agents=n_agents,
            observation_fields=("value", *(f"id_{i}" for i in range(n_agents))),
            state_fields=names,
            action_dim=3,
            discrete=True,
            action_fields=("lower", "keep", "raise"),
            obs_low=(0.0,) * (1 + n_agents),
            obs_high=(1.0,) * (1 + n_agents),
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        if initial_state is not None and np.shape(initial_state.get("values")) != self.values[0].shape:
            raise StateError("values must hold one number per agent.")
        for world, generator in zip(worlds, generators, strict=True):
            drawn = generator.random(self.values.shape[1])
            self.values[world] = drawn if initial_state is None else initial_state["values"]
            self._generators[world] = generator
            self._ended[world] = False
        self._observe()

    def step(self, actions: np.ndarray) -> None:
        if self._ended.any():
            raise RuntimeError("a world was stepped after its end")
        noise = np.stack([g.normal(0.0, 0.01, self.values.shape[1]) for g in self._generators])
        self.values[:] = np.clip(self.values + 0.1 * (actions - 1) + noise, 0.0, 1.0)
        self.reward[:] = -self.values.mean(axis=1)
        self.signed[:] = self.reward - 1.0
        self.terminated[:] = [g.random() < self._ending for g in self._generators]
        self._ended[:] = self.terminated
        self._observe()

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        return {"values": self.values[world].copy()}

    def _observe(self) -> None:
        self.obs[:, :, 0] = self.values
        self.state[:] = self.values
        self.mask[:, :, 2] = self.values <= 0.5


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: Any) -> np.ndarray:
    """One column per moment so far, one row per agent."""
    values = np.stack([snapshot["values"] for snapshot in history], axis=1)
    return np.repeat((values * 255).astype(np.uint8)[..., None], 3, axis=2)

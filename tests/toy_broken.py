"""The toy world with one promise broken at a time, to see that `check_env` notices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import toy

from mir2bench.engines.base import Layout


class BrokenEngine(toy.ToyEngine):
    """`breach` names what is broken."""

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None, breach: str = "") -> None:
        super().__init__(batch, n_agents, threads=threads)
        self._breach = breach
        if breach == "ids":
            self.obs[:, :, 1:] = 0
        if breach == "dtype":
            self.obs = self.obs.astype(np.float64)
        if breach == "no channel":
            self.channels = {"team": self.reward}
        if breach == "team channel":
            self.channels = {"team": self.signed, "signed": self.signed}
        if breach == "drawing":
            self.drawing = "toy_broken:draw"  # type: ignore[misc]

    @classmethod
    @cache
    def layout(cls, n_agents: int, breach: str = "") -> Layout:  # type: ignore[override]
        layout = toy.ToyEngine.layout(n_agents)
        if breach == "names":
            return replace(layout, state_fields=("value",) * n_agents)
        if breach == "action names":
            return replace(layout, action_fields=("lower", "keep"))
        if breach == "bounds":
            return replace(layout, obs_high=(0.5,) * (1 + n_agents))
        if breach == "number of bounds":
            return replace(layout, obs_low=(), obs_high=(1.0,) * (1 + n_agents))
        return layout

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        if self._breach == "unseeded":
            generators = [np.random.default_rng() for _ in generators]
        if self._breach == "ignores its generators":
            generators = [np.random.default_rng(0) for _ in generators]
        super().reset(worlds, generators, None if self._breach == "ignores the start" else initial_state)

    def step(self, actions: np.ndarray) -> None:
        if self._breach == "global":
            np.random.random()
        super().step(actions)
        if self._breach == "reward":
            self.reward[:] = np.nan
        if self._breach == "batch":
            self.reward += np.arange(len(self.reward))

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        return {"values": self.values[world]} if self._breach == "snapshot" else super().snapshot(world)

    def _observe(self) -> None:
        self.mask = np.ones((*self.values.shape, 3), dtype=np.int8)
        super()._observe()
        if self._breach == "no mask":
            self.mask = None  # type: ignore[assignment]
        if self._breach == "mask":
            self.mask[:, 0] = 0


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: Any) -> np.ndarray:
    """Return floats, which are no picture."""
    return np.zeros((4, 4, 3))

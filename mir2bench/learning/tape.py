"""Bringing a batch of worlds back to where it stood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.utils.seeding import np_random

from mir2bench.engines.base import Worlds
from mir2bench.errors import CheckpointError
from mir2bench.learning.state import State
from mir2bench.partition import Partition


class Tape:
    """Records each world's generator at the start of its episode and the actions since.

    They determine where a world stands, whatever its engine keeps inside, so no engine must be able to save itself.

    Args:
        worlds: `start` is called before each reset and `play` after each step.
        phi: the partition of all episodes.
    """

    def __init__(self, worlds: Worlds, phi: Partition) -> None:
        self._worlds, self._phi = worlds, phi
        self._all = np.arange(worlds.batch)
        self._origins: list[dict | None] = [None] * worlds.batch
        shape = worlds.layout.action_shape(worlds.batch)
        self._actions = np.zeros((worlds.variant.horizon, *shape), np.int64 if worlds.layout.discrete else np.float64)

    def start(self, worlds: np.ndarray | None, seeds: Sequence[int] | None) -> None:
        """Take note that worlds (None: all) are about to be reset, with seeds or with the generators they have."""
        for place, world in enumerate(self._all if worlds is None else worlds):
            generator = self._worlds.generators[world] if seeds is None else np_random(seeds[place])[0]
            self._origins[world] = None if generator is None else dict(generator.bit_generator.state)

    def play(self, actions: np.ndarray) -> None:
        """Take note of actions that were just played."""
        self._actions[(self._worlds.elapsed - 1) % len(self._actions), self._all] = actions

    def state_dict(self) -> State:
        """Return what was recorded, and what the worlds show now."""
        worlds = self._worlds
        return {
            "origins": self._origins,
            "elapsed": worlds.elapsed,
            "actions": self._actions[: int(worlds.elapsed.max())],
            "obs": worlds.engine.obs,
            "state": worlds.engine.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Play all running episodes again.

        Raises:
            CheckpointError: the worlds look different afterwards, so the engine is not the same, or not deterministic.
        """
        worlds, elapsed = self._worlds, np.array(state["elapsed"])
        self._origins = state["origins"]
        longest = int(elapsed.max())
        self._actions[:longest] = state["actions"]
        worlds.reset(seeds=[0] * worlds.batch, phi=self._phi)
        for step in range(longest + 1):
            late = longest - step  # worlds start one after the other, so that all arrive together
            for world in np.flatnonzero(elapsed == late):
                worlds.generators[world].bit_generator.state = self._origins[world]  # type: ignore[union-attr, assignment]
            self._reset(elapsed == late)
            if late:
                waiting = elapsed < late
                at = np.where(waiting, 0, elapsed - late)
                worlds.step(np.where(self._spread(waiting), self._idle(), self._actions[at, self._all]))
                self._reset(waiting & worlds.done)
        same = np.array_equal(worlds.engine.obs, state["obs"]) and np.array_equal(worlds.engine.state, state["state"])
        if not same or not np.array_equal(worlds.elapsed, elapsed):
            raise CheckpointError(
                f"{worlds.variant.id} does not come back to where the checkpoint left it: its engine was changed, or "
                "does not do the same again with the same seed and actions."
            )

    def _reset(self, which: np.ndarray) -> None:
        if which.any():
            self._worlds.reset(np.flatnonzero(which), phi=self._phi)

    def _spread(self, which: np.ndarray) -> np.ndarray:
        return which.reshape(-1, *[1] * (self._actions.ndim - 2))

    def _idle(self) -> np.ndarray:
        mask = self._worlds.engine.mask
        return np.zeros_like(self._actions[0]) if mask is None else mask.argmax(axis=-1)

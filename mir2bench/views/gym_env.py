"""The Gymnasium face of a variant: the A2Dec-POMDP itself (paper, Eq. 2), one world at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from mir2bench.engines.base import Worlds
from mir2bench.errors import ActionError
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec, spec
from mir2bench.views.common import (
    METADATA,
    action_space,
    check_render_mode,
    load_drawing,
    no_render_mode,
    observation_space,
    read_options,
    worlds_info,
)


class GymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """The caller gives the joint action of all N agents; the team gets the reward.

    Observations are (N, O) float32; actions (N, A) in [-1, 1], or N integers in [0, A). `info` holds "phi" (N,) int8
    and "state" (S,) float32, and in discrete worlds "action_mask" (N, A) int8 and "illegal_actions", the number of
    masked actions replaced since reset. Where a simulation can crash or become unstable, "interrupted", a bool, tells
    whether that is what truncated the episode. Every array is new.

    Args:
        variant: id or spec.
        render_mode: None or "rgb_array".
        strict: whether a masked action is an error; otherwise it becomes the agent's first legal action.

    Attributes:
        variant: the spec.
        worlds: the batch of one that is played.
    """

    metadata = METADATA.copy()

    def __init__(self, variant: str | VariantSpec, render_mode: str | None = None, strict: bool = False) -> None:
        self.variant = spec(variant)
        self.render_mode = check_render_mode(render_mode)
        self.worlds = Worlds(self.variant, 1, threads=1, strict=strict)
        self.observation_space = observation_space(self.worlds.layout)
        self.action_space = action_space(self.worlds.layout)
        self._action_shape = self.worlds.layout.action_shape(1)[1:]
        self._history: list[dict[str, np.ndarray]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: gives a new generator; None goes on with the present one.
            options: "phi", a partition (drawn from Phi^alpha if absent); "initial_state", the family's start values.

        Raises:
            UnknownNameError, PartitionError, StateError: bad options.
        """
        given = read_options(options)
        phi = given.get("phi")
        if phi is not None:
            phi = Partition.parse(phi, self.variant.n_agents, self.variant.n_adversaries)
        super().reset(seed=seed)
        self.worlds.generators[0] = self.np_random
        self.worlds.reset(phi=phi, initial_state=given.get("initial_state"))
        if self.render_mode is not None:
            self._history = [self.worlds.engine.snapshot(0)]
        return self.worlds.engine.obs[0].copy(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one joint action.

        Raises:
            ResetNeeded: no episode is running.
            ActionError: wrong shape, not finite, out of range, or masked in strict mode; nothing was changed then.
        """
        if not self.worlds.started[0] or self.worlds.done[0]:
            raise ResetNeeded(f"{self.variant.id}: no episode is running. Call reset() first, and after each episode.")
        try:
            joint = np.asarray(action)
        except ValueError:  # rows of different lengths
            joint = np.empty(0)
        if joint.shape != self._action_shape:
            axes = "one integer per agent" if self.worlds.layout.discrete else "(agents, components)"
            raise ActionError(
                f"the joint action of {self.variant.id} must have shape {self._action_shape}, {axes}, "
                f"but it is {action!r}."
            )
        worlds, engine = self.worlds, self.worlds.engine
        worlds.step(joint[None])
        terminated, truncated = bool(engine.terminated[0]), bool(worlds.truncated[0])
        if self.render_mode is not None:
            self._history.append(engine.snapshot(0))
        return engine.obs[0].copy(), float(engine.reward[0]), terminated, truncated, self._info()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Draw the present moment and the episode's trails.

        Returns:
            (H, W, 3) uint8.

        Raises:
            ConfigError: made without a render mode.
            ResetNeeded: called before the first reset.
        """
        if self.render_mode is None:
            raise no_render_mode(self.variant.id)
        if not self._history:
            raise ResetNeeded(f"{self.variant.id}: nothing to draw yet. Call reset() first.")
        return load_drawing(self.worlds.engine.drawing)(self._history, self.worlds.phi[0], self.variant)

    def close(self) -> None:
        """End the episode, and the game where there is one; a reset starts both anew."""
        self.worlds.close()

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {key: value[0] for key, value in worlds_info(self.worlds).items()}
        for key, kind in (("illegal_actions", int), ("interrupted", bool)):
            if key in info:
                info[key] = kind(info[key])
        return info

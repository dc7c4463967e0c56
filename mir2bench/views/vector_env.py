"""The vectorised Gymnasium face of a variant: B worlds in one engine, as `gymnasium.make_vec` returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from mir2bench.engines.base import Worlds
from mir2bench.errors import ConfigError
from mir2bench.registration import VariantSpec, spec
from mir2bench.views.common import (
    METADATA,
    RESET_OPTIONS,
    action_space,
    check_render_mode,
    load_drawing,
    no_render_mode,
    observation_space,
    read_options,
    worlds_info,
)


class VectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """B worlds; world i seeded with `seed + i` gives, bit for bit, what a `GymEnv` seeded with it gives.

    Observations are (B, N, O), actions (B, N, A) or (B, N), rewards, terminations and truncations (B,). `infos` holds
    what `GymEnv`'s info holds, with B in front and, for each key, a mask "_key" of the worlds it is about.

    Args:
        num_envs: B.
        variant: id or spec.
        render_mode: None or "rgb_array".
        strict: whether a masked action is an error; otherwise it becomes the agent's first legal action.
        autoreset_mode: what happens to a world whose episode ended. NEXT_STEP (Gymnasium's default): the next `step`
            ignores its action and returns its new start with reward 0. SAME_STEP: the same `step` returns the new
            start; `infos["final_obs"]` and `infos["final_info"]` hold the end. DISABLED: the caller must reset it with
            `options={"reset_mask": ...}`.
        threads: threads for the physics; None lets the engine choose.
    """

    metadata = METADATA.copy()

    def __init__(
        self,
        num_envs: int,
        variant: str | VariantSpec,
        render_mode: str | None = None,
        strict: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
    ) -> None:
        self.variant = spec(variant)
        self.num_envs = num_envs
        self.render_mode = check_render_mode(render_mode)
        try:
            self._autoreset = AutoresetMode(autoreset_mode)
        except ValueError:
            modes = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise ConfigError(f"autoreset_mode {autoreset_mode!r} does not exist. Give one of: {modes}.") from None
        self.metadata = {**METADATA, "autoreset_mode": self._autoreset}
        self.worlds = Worlds(self.variant, num_envs, threads=threads, strict=strict)
        self.single_observation_space = observation_space(self.worlds.layout)
        self.single_action_space = action_space(self.worlds.layout)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = np.zeros(num_envs, dtype=bool)
        self._history: list[list[dict[str, np.ndarray]]] = [[] for _ in range(num_envs)]

    @property
    def np_random(self) -> tuple[np.random.Generator | None, ...]:  # type: ignore[override]
        """The generator of each world, None before its first reset."""
        return tuple(self.worlds.generators)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of each world, None before its first reset."""
        return tuple(None if g is None else g.bit_generator.seed_seq.entropy for g in self.worlds.generators)  # type: ignore[attr-defined]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: world i is seeded with `seed + i`, or with entry i of a list; None goes on with its generator.
            options: "phi", one partition (N,) or one for each world (B, N); "initial_state", one start for all;
                "reset_mask", (B,) bool, the worlds to reset (all if absent).

        Raises:
            UnknownNameError, ConfigError, PartitionError, StateError: bad options or seeds.
        """
        given = read_options(options, (*RESET_OPTIONS, "reset_mask"))
        mask = given.pop("reset_mask", None)
        if mask is None:
            mask = np.ones(self.num_envs, dtype=bool)
        elif (
            not isinstance(mask, np.ndarray)
            or mask.dtype != np.bool_
            or mask.shape != (self.num_envs,)
            or not mask.any()
        ):
            raise ConfigError(
                f"reset_mask must be a boolean array of shape ({self.num_envs},) with at least one True, "
                f"but it is {mask!r}."
            )
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(
                f"{len(seeds)} seeds were given for {self.num_envs} worlds. Give one for each, or one integer."
            )
        self.closed = False  # also if only some of the games start
        self._start(mask, seeds=[seeds[i] for i in np.flatnonzero(mask)], **given)
        return self.worlds.engine.obs.copy(), self._infos(mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one joint action in every world; see `autoreset_mode` for worlds that ended.

        Raises:
            ResetNeeded: a world has no running episode.
            ActionError: wrong shape, not finite, out of range, or masked in strict mode.
        """
        worlds, engine, ended = self.worlds, self.worlds.engine, self._ended
        if not self.worlds.started.all():
            raise ResetNeeded(f"{self.variant.id}: no episode is running. Call reset() first.")
        if self._autoreset is AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(
                f"{self.variant.id}: worlds {np.flatnonzero(ended).tolist()} have ended and autoreset is disabled. "
                'Call reset(options={"reset_mask": terminated | truncated}) first.'
            )
        restart = ended if self._autoreset is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        if restart.any():
            self._step_others(np.asarray(actions), restart)
        else:
            worlds.step(actions)
        if self.render_mode is not None:
            for world in np.flatnonzero(~restart).tolist():
                self._history[world].append(engine.snapshot(world))
        rewards = np.where(restart, 0.0, engine.reward)
        terminated, truncated = engine.terminated.copy(), worlds.truncated.copy()
        self._ended = terminated | truncated
        infos: dict[str, Any] = {}
        if self._autoreset is AutoresetMode.SAME_STEP and self._ended.any():
            over = self._ended
            final_obs = np.full(self.num_envs, None, dtype=object)
            for world in np.flatnonzero(over):
                final_obs[world] = engine.obs[world].copy()
            infos = {"final_obs": final_obs, "_final_obs": over.copy()}
            infos |= {"final_info": self._infos(over), "_final_info": over.copy()}
            self._start(over)
        infos |= self._infos(np.ones(self.num_envs, dtype=bool))
        return engine.obs.copy(), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        """Draw every world.

        Returns:
            One (H, W, 3) uint8 array for each world.

        Raises:
            ConfigError: made without a render mode.
            ResetNeeded: called before the first reset.
        """
        if self.render_mode is None:
            raise no_render_mode(self.variant.id)
        if not self.worlds.started.all():
            raise ResetNeeded(f"{self.variant.id}: nothing to draw yet. Call reset() first.")
        draw = load_drawing(self.worlds.engine.drawing)
        return tuple(draw(h, phi, self.variant) for h, phi in zip(self._history, self.worlds.phi, strict=True))

    def close_extras(self, **kwargs: Any) -> None:
        """End all episodes, and the games where there are any; `close` of Gymnasium calls this once."""
        self.worlds.close()

    def _start(self, which: np.ndarray, **options: Any) -> None:
        """Reset the worlds of a mask; `options` as for `Worlds.reset`."""
        self.worlds.reset(np.flatnonzero(which), **options)
        self._ended = self._ended & ~which
        if self.render_mode is not None:
            for world in np.flatnonzero(which).tolist():
                self._history[world] = [self.worlds.engine.snapshot(world)]

    def _step_others(self, actions: np.ndarray, restart: np.ndarray) -> None:
        """Start the worlds of the mask `restart` anew and step all others.

        An engine steps its whole batch, and steps no world that has ended. So the ended ones start first, idle through
        the step, and then start again from the same point of their generators.
        """
        over = np.flatnonzero(restart)
        if restart.all():
            self._start(restart)
            return
        generators = [self.worlds.generators[world] for world in over]
        states = [g.bit_generator.state for g in generators if g is not None]
        self.worlds.reset(over)
        try:
            joint = np.array(actions)
            if joint.shape == self.action_space.shape:  # a wrong shape is for `Worlds.step` to explain
                mask = self.worlds.engine.mask
                joint[over] = 0 if mask is None else mask[over].argmax(axis=-1)
            self.worlds.step(joint)
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.bit_generator.state = state  # type: ignore[union-attr]
        self._start(restart)

    def _infos(self, which: np.ndarray) -> dict[str, Any]:
        """Return the infos of the worlds of a mask; the rows of others are zero."""
        infos: dict[str, Any] = {}
        for key, value in worlds_info(self.worlds).items():
            value[~which] = 0
            infos[key], infos[f"_{key}"] = value, which.copy()
        return infos

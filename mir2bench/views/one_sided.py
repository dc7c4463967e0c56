"""What `AttackerEnv` and `DefenderEnv` share: one side plays, the other is a frozen policy inside the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from mir2bench.errors import ActionError, ConfigError, PolicyError
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec
from mir2bench.views.common import METADATA, read_options
from mir2bench.views.gym_env import GymEnv

if TYPE_CHECKING:
    from mir2bench.policies import Policy


class OneSidedEnv(gymnasium.Env[np.ndarray, Any]):
    """Base of the one-sided environments.

    The frozen policy is greedy, keeps its memory within an episode, and has a generator of its own, so that the starts
    of a seed do not depend on it.

    Args:
        env: id, spec, or a made environment of mir2bench. Wrappers around a made one see every step, but what they
            change in observations and rewards does not arrive here.
        frozen: the policy of the other side.
        phi: partition of every episode; None draws one for each.
        make_kwargs: passed on to `GymEnv` when `env` is an id or spec.
    """

    metadata = METADATA.copy()

    def __init__(
        self, env: str | VariantSpec | gymnasium.Env, frozen: Policy, phi: object, make_kwargs: dict[str, Any]
    ) -> None:
        name = type(self).__name__
        if isinstance(frozen, str | Path):
            raise PolicyError(
                f"{name} needs a policy, but it got the path {str(frozen)!r}. "
                f"Give mir2bench.load_policy({str(frozen)!r})."
            )
        if not callable(getattr(frozen, "act", None)) or not callable(getattr(frozen, "initial_carry", None)):
            raise PolicyError(f"{name} needs a policy with `initial_carry` and `act`, but it got {frozen!r}.")
        if isinstance(env, str | VariantSpec):
            env = GymEnv(env, **make_kwargs)
        elif make_kwargs:
            raise ConfigError(f"{name} got a made environment; give {sorted(make_kwargs)} to gymnasium.make instead.")
        base = env.unwrapped if isinstance(env, gymnasium.Env) else env
        if not isinstance(base, GymEnv):
            raise ConfigError(f"{name} needs an id, a spec or an environment of mir2bench, but it got {env!r}.")
        self.env = env
        self.variant = base.variant
        self.worlds = base.worlds
        self.render_mode = base.render_mode
        self.fixed_phi = None if phi is None else self._parse_phi(phi)
        self._base = base
        self._frozen = frozen
        self._frozen_rng = np.random.default_rng()
        self._carry: Any = None
        self._started = False
        self.adversaries = np.empty(0, dtype=np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; `seed` and `options` as for `GymEnv.reset`.

        Raises:
            UnknownNameError, PartitionError, StateError: bad options.
        """
        given = read_options(options)
        phi = given.get("phi", self.fixed_phi)
        given["phi"] = None if phi is None else self._parse_phi(phi)
        _, info = self.env.reset(seed=seed, options=given)
        if self._np_random is not self._base.np_random:  # newly seeded
            self._np_random, self._np_random_seed = self._base.np_random, self._base.np_random_seed
            self._frozen_rng = self._np_random.spawn(1)[0]
        self._carry = self._frozen.initial_carry(1)
        self._started = True
        self.adversaries = np.flatnonzero(self.worlds.phi[0])
        return self._obs(), self._info(info)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Draw the present moment; see `GymEnv.render`."""
        return self.env.render()  # type: ignore[return-value]

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    def _play(self, joint: np.ndarray, carry: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Step the environment inside; `carry` is the frozen policy's memory if the step is accepted."""
        _, reward, terminated, truncated, info = self.env.step(joint)
        self._carry = carry
        return float(reward), terminated, truncated, info

    def _frozen_act(self, agents: np.ndarray) -> tuple[np.ndarray, Any]:
        """Return the frozen policy's actions for `agents`, (1, n, ...), and its new memory."""
        engine = self.worlds.engine
        mask = None if engine.mask is None else engine.mask[:, agents]
        actions, carry = self._frozen.act(
            engine.obs[:, agents], self._carry, mask, rng=self._frozen_rng, deterministic=True
        )
        actions, expected = np.asarray(actions), self.worlds.layout.action_shape(1, len(agents))
        if actions.shape != expected:
            raise PolicyError(
                f"the frozen policy {self._frozen!r} returned actions of shape {actions.shape}, but {self.variant.id} "
                f"expects {expected} here."
            )
        if not np.isfinite(actions).all():
            raise PolicyError(f"the frozen policy {self._frozen!r} returned actions that are not finite.")
        return actions, carry

    def _check_action(self, action: Any) -> np.ndarray:
        if not (self._started and self.worlds.started[0]):
            raise ResetNeeded(f"{type(self).__name__} of {self.variant.id}: call reset() first.")
        try:
            array = np.asarray(action)
        except ValueError:  # rows of different lengths
            array = np.empty((0, 0, 0))
        if array.shape != self.action_space.shape or array.dtype.kind not in "fiu":
            raise ActionError(
                f"an action of {type(self).__name__} of {self.variant.id} must be numbers of shape "
                f"{self.action_space.shape}, but it is {action!r}."
            )
        return array

    def _parse_phi(self, phi: object) -> Partition:
        return Partition.parse(phi, self.variant.n_agents, self.variant.n_adversaries)

    def _obs(self) -> np.ndarray:
        """Return what the playing side sees, as a copy."""
        raise NotImplementedError

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return what the playing side is told."""
        raise NotImplementedError

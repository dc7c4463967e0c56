"""The adversaries' game against a frozen team, for any single-agent RL library."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mir2bench.engines.base import check_attack_reward
from mir2bench.errors import PartitionError
from mir2bench.partition import Partition, perturb
from mir2bench.registration import VariantSpec
from mir2bench.views.common import observation_bounds
from mir2bench.views.one_sided import OneSidedEnv

if TYPE_CHECKING:
    from mir2bench.policies import Policy


class AttackerEnv(OneSidedEnv):
    """The K adversaries play as one agent; the frozen greedy team is part of the environment (paper, Eq. 3).

    One adversary: observation (O,), action (A,) in [-1, 1] or Discrete(A). Several: their observations and actions
    joined in ascending order of agents, (K * O,) and (K * A,) or MultiDiscrete([A] * K), since single-agent libraries
    need flat spaces. The reward is minus the reward channel that `reward` or the variant names. `info` is that of
    `GymEnv` with "team_reward", and with "action_mask" of the adversaries alone, (A,) or (K, A).

    Args:
        env: id, spec, or a made environment of mir2bench.
        defender: the frozen team policy; what it chooses for adversaries is discarded. Any policy that reads this
            world's observations plays, also one that was trained in another world with the same ones.
        phi: partition of every episode; None draws one from Phi^alpha for each.
        reward: the reward channel that the adversaries minimize; None takes the variant's.
        kwargs: `render_mode` and `strict` of `GymEnv`, when `env` is an id or spec.

    Raises:
        PartitionError: no adversary, or a phi that the variant does not allow.
        UnknownNameError: the world has no such reward channel.
        PolicyError, ConfigError: `defender` or `env` is something else.
    """

    def __init__(
        self,
        env: str | VariantSpec | gymnasium.Env,
        defender: Policy,
        phi: object = None,
        *,
        reward: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(env, defender, phi, kwargs)
        layout, k = self.worlds.layout, self.variant.n_adversaries
        if k == 0:
            raise PartitionError(
                f"{self.variant.id} has no adversaries to play. Choose a variant with `-adv1` or more."
            )
        if reward is not None:
            self.variant = dataclasses.replace(self.variant, attack_reward=reward)
        check_attack_reward(self.variant, self.worlds.engine)
        low, high = observation_bounds(layout, k)
        self.observation_space = spaces.Box(low.ravel(), high.ravel(), dtype=np.float32)
        if not layout.discrete:
            self.action_space = spaces.Box(-1.0, 1.0, (k * layout.action_dim,), np.float32)
        elif k == 1:
            self.action_space = spaces.Discrete(layout.action_dim)
        else:
            self.action_space = spaces.MultiDiscrete([layout.action_dim] * k)
        self._everyone = np.arange(layout.n_agents)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one action of the adversaries against the team's greedy one.

        Raises:
            ResetNeeded: no episode is running.
            ActionError: wrong shape, not finite, out of range, or masked in strict mode; nothing was changed then.
            PolicyError: the team's policy returned something else than a joint action.
        """
        actions = self._check_action(action).reshape(self.worlds.layout.action_shape(1, len(self.adversaries)))
        phi = Partition.of(self.variant.n_agents, self.adversaries.tolist())
        team, carry = self._frozen_act(self._everyone)
        reward, terminated, truncated, info = self._play(perturb(team, actions, phi)[0], carry)
        channel = self.worlds.engine.channels[self.variant.attack_reward]
        return self._obs(), -float(channel[0]), terminated, truncated, {**self._info(info), "team_reward": reward}

    def action_masks(self) -> np.ndarray:
        """Return the legal actions of all adversaries in a row, (K * A,) bool, as sb3-contrib's MaskablePPO asks."""
        mask = self.worlds.engine.mask
        if mask is None:
            return np.ones(self.variant.n_adversaries * self.worlds.layout.action_dim, dtype=bool)
        return mask[0, self.adversaries].ravel() > 0

    def _parse_phi(self, phi: object) -> Partition:
        parsed = super()._parse_phi(phi)
        if parsed.weight == 0:
            raise PartitionError("phi names no adversary, but AttackerEnv plays the adversaries. Set one entry to 1.")
        return parsed

    def _obs(self) -> np.ndarray:
        return self.worlds.engine.obs[0, self.adversaries].ravel()

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        if "action_mask" in info:
            own = info["action_mask"][self.adversaries]
            info["action_mask"] = own[0] if len(own) == 1 else own
        return info

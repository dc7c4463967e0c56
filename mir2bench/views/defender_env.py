"""The team's game with the adversaries closed in, for training and testing defenders against a given attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from mir2bench.partition import Partition, perturb
from mir2bench.registration import VariantSpec
from mir2bench.views.one_sided import OneSidedEnv

if TYPE_CHECKING:
    from mir2bench.policies import Policy


class DefenderEnv(OneSidedEnv):
    """The team plays; some of its members do what a frozen adversarial policy says instead. phi is hidden.

    Spaces, observations and reward are those of `GymEnv`. The caller gives a joint action for all N agents; entries of
    adversaries are overruled. `info` is that of `GymEnv` without "phi".

    Args:
        env: id, spec, or a made environment of mir2bench.
        attacker: the frozen policy of the K adversaries; it sees their observations (1, K, O) and masks only.
        phi: partition of every episode; None draws one from Phi^alpha for each.
        kwargs: `render_mode` and `strict` of `GymEnv`, when `env` is an id or spec.

    Raises:
        PartitionError: a phi that the variant does not allow.
        PolicyError, ConfigError: `attacker` or `env` is something else.
    """

    def __init__(
        self, env: str | VariantSpec | gymnasium.Env, attacker: Policy, phi: object = None, **kwargs: Any
    ) -> None:
        super().__init__(env, attacker, phi, kwargs)
        self.observation_space = self._base.observation_space
        self.action_space = self._base.action_space

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one joint action of the team, perturbed by the adversaries.

        Raises:
            ResetNeeded: no episode is running.
            ActionError: wrong shape, not finite, out of range, or masked in strict mode; nothing was changed then.
            PolicyError: the attacker's policy returned something else than actions of its K agents.
        """
        joint, carry = self._check_action(action)[None], None
        if len(self.adversaries):
            phi = Partition.of(self.variant.n_agents, self.adversaries.tolist())
            actions, carry = self._frozen_act(self.adversaries)
            joint = perturb(joint, actions, phi)
        reward, terminated, truncated, info = self._play(joint[0], carry)
        return self._obs(), reward, terminated, truncated, self._info(info)

    def _obs(self) -> np.ndarray:
        return self.worlds.engine.obs[0].copy()

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in info.items() if key != "phi"}

"""Adversarial training: a learned adversary in the loop, with other agents taken over in every episode.

The plain strong baseline: a share rho of the training episodes has adversaries, phi drawn anew for each, and what they
do is learned beside the team as the other side of a zero-sum game. The critic knows phi; the team does not:

    a_phi = phi alpha(o) + (1 - phi) pi(o)                      (alpha: one network for whoever is adversarial)
    y     = r + gamma Q'(s', o', a'_phi, phi),                  a'_phi from the target networks pi', alpha'
    L_Q   = mean 1/2 (Q(s, o, a, phi) - y)^2
    L_pi  = - mean Q(s, o, a_phi, phi),                         its gradient through pi alone
    L_alpha =  mean Q(s, o, a_phi, phi)                         over attacked episodes, its gradient through alpha alone

With rho = 0 the team's updates are MADDPG's with a critic that has phi as n inputs more, always 0.

Differences from the literature (Pinto et al. 2017, Phan et al. 2020 and others do the same with other backbones):
1. Both sides share one critic, as befits a zero-sum game: the adversary minimizes the reward that the team maximizes,
   also where a variant names another one for attacks.
2. The adversary is feed-forward and does not know phi beyond its own agent's id; all adversaries share it.
3. The adversary ships with the policy (`policy.training_adversary`), so that anyone can see whether a team that holds
   against it also holds against a fresh one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.networks import Actor
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.replay import Batch
from mir2bench.learning.tasks import Task, TeamTask
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of adversarial training, beside those of MADDPG.

    Attributes:
        attacked: rho, the share of training episodes with adversaries.
        adversary_lr: Adam's step size for the adversary.
    """

    attacked: float = 0.5
    adversary_lr: float = 3e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attacked <= 1 or not self.adversary_lr > 0:
            raise ConfigError(
                "attacked is a share from 0 to 1 and adversary_lr is above 0, but they are "
                f"{self.attacked} and {self.adversary_lr}."
            )


class AdvtrainLearner(maddpg.MaddpgLearner):
    """MADDPG against an adversary that learns as fast as the team."""

    config: Config
    critic_knows_phi = True

    def __init__(self, task: Task, config: Config, seed: int) -> None:
        super().__init__(task, config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.adversary = Actor(replace(self.actor.shape, recurrent=False))
        self.target_adversary = copy.deepcopy(self.adversary).requires_grad_(False)
        self.adversary_optimizer = torch.optim.Adam(self.adversary.parameters(), lr=config.adversary_lr, fused=True)
        self._online += self.adversary.parameters()
        self._target += self.target_adversary.parameters()
        self.adversary_policy = NetworkPolicy(self.adversary, max(1, int(task.phi.sum(axis=1).max())), config.noise)
        self.policy.training_adversary = self.adversary_policy
        self._rng = np.random.default_rng((seed, 2))

    def intervene(self, task: Task, actions: np.ndarray) -> np.ndarray:
        """Put the exploring adversary's actions in the place of the adversaries'."""
        if not task.phi.any():
            return actions
        attack, _ = self.adversary_policy.act(task.obs, None, task.mask, rng=self._rng, deterministic=False)
        return np.where(task.phi > 0 if task.layout.discrete else task.phi[..., None] > 0, attack, actions)

    def next_action(self, batch: Batch) -> Tensor:
        """Return a'_phi, (M, n, A)."""
        logits = self.target_adversary.head(self.target_adversary.features_next(batch))
        return self._joint(batch, super().next_action(batch), self.greedy_action(logits, batch.next_mask))

    def actor_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return Q(s, o, a_phi, phi), (M,)."""
        with torch.no_grad():
            attack = self.soft_action(self._adversary_logits(batch), batch.mask)
        return super().actor_value(batch, self._joint(batch, action, attack))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make MADDPG's update, then one step of the adversary on the attacked episodes."""
        logged = super().update(batch)
        with torch.no_grad():
            team = self.soft_action(self.actor.head(self.actor.features_now(batch)), batch.mask)
        logits = self._adversary_logits(batch)
        action = self._joint(batch, team, self.soft_action(logits, batch.mask))
        value = self.critic(batch.state, batch.obs, action, batch.phi)
        attacked = (batch.phi.sum(dim=-1) > 0).float()
        loss = (attacked * value).sum() / attacked.sum().clamp_min(1.0) + super().actor_penalty(batch, logits)
        self._descend(loss, self.adversary_optimizer)
        return {**logged, "loss/adversary": loss.detach()}

    def _adversary_logits(self, batch: Batch) -> Tensor:
        return self.adversary.head(self.adversary.features_now(batch))

    def _joint(self, batch: Batch, team: Tensor, attack: Tensor) -> Tensor:
        """Return a_phi, (M, n, A)."""
        return torch.where(batch.phi[..., None] > 0, attack, team)


class AdversarialTraining(maddpg.MADDPG):
    """The defender."""

    name: ClassVar[str] = "advtrain"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = AdvtrainLearner

    config: Config

    def task(self, variant: VariantSpec, seed: int) -> TeamTask:
        """Return episodes of which a share rho has adversaries."""
        rng = np.random.default_rng((seed, 1))
        return TeamTask(variant, self.config.worlds, attacked=self.config.attacked, rng=rng)

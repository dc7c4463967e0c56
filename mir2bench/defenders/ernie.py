"""ERNIE (Bukharin et al. 2023): policies and values that small changes move little.

MADDPG with two adversarial regularizers. The policy is kept smooth in what agents observe,

    R_pi = mean_i D( pi(o^i + delta^i), pi(o^i) ),    delta^i = argmax_{|delta| <= epsilon_o} D

with D the squared distance of continuous actions, or the divergence KL of discrete ones; and the critic is kept smooth
in what agents do,

    R_Q  = mean ( Q(s, o, a~) - Q(s, o, a) )^2,       a~ = argmax_{|a~^i - a^i| <= epsilon_a} |Q(s, o, a~) - Q(s, o, a)|

so that L_pi is MADDPG's + lambda_pi R_pi and L_Q is MADDPG's + lambda_Q R_Q. With both lambdas 0 it is MADDPG bit for
bit. delta comes from gradient steps of an inner maximization; with `stackelberg` the gradient of R_pi runs through
these steps too, as the leader's in a Stackelberg game.

Differences from the paper and from its authors' code:
1. The paper regularizes with respect to observations by default and proposes the term on actions for malicious agents;
   both are on here, since malicious agents are what this benchmark is about.
2. delta is normalized to length epsilon_o after each step; observations are scaled to about [-1, 1] in every family.
   It moves the agent id at their end like everything else.
3. The inner maximization over joint actions is one normalized gradient step; in discrete worlds it replaces the one
   action that changes the value most to first order.
4. The code published with MIR2 subtracts both terms from the reward, where the policy gets no gradient from them. Here
   they are losses, as published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.networks import legal_logits
from mir2bench.learning.replay import Batch
from mir2bench.learning.tasks import Task


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of ERNIE, beside those of MADDPG.

    Attributes:
        lam_policy: lambda_pi, weight of the policy's regularizer.
        lam_critic: lambda_Q, weight of the critic's regularizer.
        epsilon_obs: length of delta, per agent.
        epsilon_action: length of the step on each agent's action.
        inner_steps: gradient steps of the inner maximization.
        stackelberg: whether the policy's gradient runs through these steps.
    """

    lam_policy: float = 0.01
    lam_critic: float = 0.1
    epsilon_obs: float = 0.1
    epsilon_action: float = 0.1
    inner_steps: int = 1
    stackelberg: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 1:
            raise ConfigError(f"inner_steps must be 1 or more, but it is {self.inner_steps}.")


class ErnieLearner(maddpg.MaddpgLearner):
    """MADDPG with smooth policies and values."""

    config: Config

    def __init__(self, task: Task, config: Config, seed: int) -> None:
        super().__init__(task, config, seed)
        self.generator_delta = torch.Generator().manual_seed(seed)

    def actor_penalty(self, batch: Batch, logits: Tensor) -> Tensor | float:
        """Return MADDPG's penalty + lambda_pi R_pi."""
        penalty = super().actor_penalty(batch, logits)
        if self.config.lam_policy == 0:
            return penalty
        obs = batch.obs if batch.sequences is None or not self.recurrent else batch.sequences.obs
        delta = torch.randn(obs.shape, generator=self.generator_delta)
        delta = self.config.epsilon_obs * F.normalize(delta, dim=-1)
        clean = logits if self.config.stackelberg else logits.detach()
        for _ in range(self.config.inner_steps):
            delta.requires_grad_()
            distance = self._distance(batch, self._logits(batch, delta), clean)
            (ascent,) = torch.autograd.grad(distance, delta, create_graph=self.config.stackelberg)
            delta = self.config.epsilon_obs * F.normalize(
                delta + ascent / (ascent.norm(dim=-1, keepdim=True) + 1e-12), dim=-1
            )
            if not self.config.stackelberg:
                delta = delta.detach()
        smoothness = self._distance(batch, self._logits(batch, delta), logits) / logits.shape[:2].numel()
        return penalty + self.config.lam_policy * smoothness

    def critic_penalty(self, batch: Batch, value: Tensor) -> Tensor | float:
        """Return lambda_Q R_Q."""
        if self.config.lam_critic == 0:
            return 0.0
        action = batch.action.detach().requires_grad_()
        now = self.critic(batch.state, batch.obs, action, batch.phi)
        (gradient,) = torch.autograd.grad(now.sum(), action)
        moved = self._moved(batch, gradient)
        change = self.critic(batch.state, batch.obs, moved, batch.phi) - value
        return self.config.lam_critic * change.square().mean()

    def _moved(self, batch: Batch, gradient: Tensor) -> Tensor:
        """Return a~, (M, n, A): the joint action that changes Q most, to first order."""
        if not self.actor.shape.discrete:
            step = self.config.epsilon_action * F.normalize(gradient, dim=-1)
            return (batch.action + step).clamp(-1.0, 1.0)
        gain = (gradient - (gradient * batch.action).sum(dim=-1, keepdim=True)).abs()  # of replacing an action
        if batch.mask is not None:
            gain = gain.masked_fill(batch.mask <= 0, -1.0)
        choice = gain.flatten(1).argmax(dim=-1)
        who, what = choice // gain.shape[-1], choice % gain.shape[-1]
        moved = batch.action.clone()
        moved[torch.arange(len(who)), who] = F.one_hot(what, gain.shape[-1]).float()
        return moved

    def _logits(self, batch: Batch, delta: Tensor) -> Tensor:
        """Return the actor's outputs at observations moved by delta."""
        if batch.sequences is not None and self.recurrent:
            moved = replace(batch, sequences=replace(batch.sequences, obs=batch.sequences.obs + delta))
        else:
            moved = replace(batch, obs=batch.obs + delta)
        return self.actor.head(self.actor.features_now(moved, twice=self.config.stackelberg))

    def _distance(self, batch: Batch, moved: Tensor, logits: Tensor) -> Tensor:
        """Return D, summed over samples and agents."""
        if not self.actor.shape.discrete:
            return (torch.tanh(moved) - torch.tanh(logits)).square().sum()
        log_p = legal_logits(logits, batch.mask).log_softmax(dim=-1)
        log_q = legal_logits(moved, batch.mask).log_softmax(dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum()


class ERNIE(maddpg.MADDPG):
    """The defender."""

    name: ClassVar[str] = "ernie"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = ErnieLearner

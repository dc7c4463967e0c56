"""MIR2: mutual information as robust regularization (the paper's method).

The team maximizes E[ sum_t r_t - lambda I(h_t; a_t) ] on attack-free episodes (Proposition 1). It is MADDPG with one
line changed,

    y = r - lambda I_t + gamma Q'(s', o', pi'(o')),        I_t = sum_i I^i_t,

where I^i_t is what sample t contributes to the CLUB estimate of I(h^i; a^i) (Cheng et al. 2020),

    I^i_t = log q(a^i_t | h^i_t) - mean_k log q(a^i_t | h^i_k),

and q is fitted by maximum likelihood, L_q = - mean_t sum_i log q(b^i_t | h^i_t), to actions b that the current policy,
with its exploration, draws at the same histories. For several steps of reward before the bootstrap, I_t stands for each
of them. With lambda = 0 it is MADDPG bit for bit.

Differences from the paper and from its authors' code:
1. I(h^i; a^i) per agent by default, which for factorized policies bounds the joint I(h; a) from above; `joint` switches
   to one q(a | h^1 ... h^N). Theirs conditions on the global state, averaged over agents.
2. h^i enters as the actor's last hidden layer, detached. The actor sees the history through it alone, so
   I(h; a) = I(features; a); for recurrent actors it is the memory, as in their description.
3. q is linear in these features, its variance one number per action component and at least that of the exploration
   noise. Theirs confines the variance to [0.37, 2.7], which cannot express noise of 0.1, and has layers of its own.
4. q is fitted to what the current policy does at replayed histories: I(h; a) is a property of the current policy, and
   a q fitted to the replay's mixture of old policies reported half of it. Theirs is fitted to replay slot 0, the first
   random episode, until the ring wraps.
5. Discrete actions have one softmax per agent; theirs one over all agents' actions, whose label is agent 0's alone.
6. Negative pairs come in closed form from all transitions of the batch, O(n); theirs are n^2 pairs with padding.
7. `negatives="histories"` groups the negative pairs so that the penalty, as a function of the agent's own action, pulls
   it towards what is usual in other histories, as the gradient of the bound does; "actions" is the grouping of CLUB's
   authors and of theirs. The estimate itself, the mean, is the same (see `learning.mutual_information`).
8. What is charged is a surrogate of the bound, not the bound: replayed actions a_t, older policies' among them, under a
   q of the current policy. "mi/club" logs it, "mi/club_now" the bound of the current policy, "mi/exact" the true value.
   (With `joint` the exact value is still the sum of the agents' own.)
9. Agents with a single legal action (the dead in a battle) have no choice to inform: they count neither in I_t nor in
   the fit of q. Theirs keeps them.
10. lambda weighs nats against rewards scaled to 1 per step over the variant's score range, so that it means the same in
   every family; theirs weighs raw rewards, and is 0 unless given on the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.mutual_information import (
    MIN_STD,
    ActionModel,
    Negatives,
    choosing,
    exact_categorical,
    exact_gaussian,
)
from mir2bench.learning.networks import legal_logits
from mir2bench.learning.replay import Batch
from mir2bench.learning.tasks import Task


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of MIR2, beside those of MADDPG.

    Attributes:
        lam: lambda, weight of one nat against a reward of 1 per step over the variant's score range.
        club_lr: Adam's step size for q.
        club_interval: q makes one step on every so many batches.
        joint: one q(a | h^1 ... h^N) instead of one q(a^i | h^i) per agent.
        negatives: how the negative pairs are grouped, "histories" or "actions".
    """

    lam: float = 3e-5
    club_lr: float = 1e-2
    club_interval: int = 20
    joint: bool = False
    negatives: Negatives = "histories"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.club_interval < 1 or not 0 < self.club_lr < float("inf"):
            raise ConfigError(
                f"club_interval must be 1 or more and club_lr above 0, but they are {self.club_interval} and "
                f"{self.club_lr}."
            )
        if self.negatives not in ("actions", "histories"):
            raise ConfigError(f'negatives must be "histories" or "actions", but it is {self.negatives!r}.')


class Mir2Learner(maddpg.MaddpgLearner):
    """MADDPG whose reward is charged for mutual information."""

    config: Config

    def __init__(self, task: Task, config: Config, seed: int) -> None:
        super().__init__(task, config, seed)
        shape = self.actor.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.q = ActionModel(
                shape.hidden,
                shape.action_dim,
                discrete=shape.discrete,
                min_std=config.noise,
                joint=task.n_agents if config.joint else 0,
            )
        self.q_optimizer = torch.optim.Adam(self.q.parameters(), lr=config.club_lr, fused=True)
        self._updates = 0
        self._logged: dict[str, Tensor] = {}
        # Apart from the backbone's generator, so that with lambda = 0 nothing but the names differs from MADDPG.
        self.generator_q = torch.Generator().manual_seed(seed)
        self.generator_diagnosis = torch.Generator().manual_seed(seed)
        self._noise = max(config.noise, MIN_STD)

    def reward(self, batch: Batch, features: Tensor) -> Tensor:
        """Return r_t - lambda I_t, (M,), after fitting q if it is its turn."""
        free = choosing(batch.mask)
        if self._updates % self.config.club_interval == 0:
            action, _ = self.act(features, batch.mask, self.generator_q)
            with torch.enable_grad():
                log_likelihood = self._per_step(self.q.log_likelihood(self.q(features), action), free)
                self._descend(-log_likelihood, self.q_optimizer)
            self._logged["mi/log_likelihood"] = log_likelihood.detach()
        self._updates += 1
        information = self.q.club(self.q(features), batch.action, self.config.negatives, free).sum(dim=-1)
        self._logged["mi/club"] = information.mean()
        return batch.reward - self.config.lam * batch.weight * information

    @staticmethod
    def _per_step(values: Tensor, free: Tensor | None) -> Tensor:
        """Return the mean over steps of the sum over agents who have a choice."""
        return (values if free is None else free * values).sum(dim=-1).mean()

    @torch.no_grad()
    def act(self, features: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw what the exploring policy would do now: actions and their log-probabilities, (M, n, A) and (M, n)."""
        logits = self.actor.head(features)
        if self.actor.shape.discrete:
            log_probs = legal_logits(logits, mask).log_softmax(dim=-1)
            index = torch.multinomial(log_probs.exp().flatten(0, 1), 1, generator=generator).view(log_probs.shape[:2])
            return F.one_hot(index, log_probs.shape[-1]).float(), log_probs.gather(-1, index[..., None])[..., 0]
        mean = torch.tanh(logits)
        action = (mean + self._noise * torch.randn(mean.shape, generator=generator)).clamp(-1.0, 1.0)
        square = ((action - mean) / self._noise).square()
        return action, -(0.5 * square + math.log(self._noise) + 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make MADDPG's update with the charged reward; logs the estimate and q's likelihood as well."""
        return {**super().update(batch), **self._logged}

    @torch.no_grad()
    def diagnose(self, batch: Batch) -> dict[str, Tensor]:
        """Log the exact information of the current policy at the batch's histories beside what q makes of it.

        The actions are drawn anew, so q was never fitted to them: "mi/held_out" is its log-likelihood beside
        "mi/policy", that of the policy's own Gaussian (both at executed, hence clipped actions); "mi/club_now" beside
        "mi/exact" tells how loose the bound is.
        """
        features = self.actor.features_now(batch)
        action, log_prob = self.act(features, batch.mask, self.generator_diagnosis)
        logits = self.actor.head(features)
        free = choosing(batch.mask)
        if self.actor.shape.discrete:
            exact = exact_categorical(legal_logits(logits, batch.mask).log_softmax(dim=-1), free)
        else:
            exact = exact_gaussian(torch.tanh(logits), self._noise, self.generator_diagnosis)
        q = self.q(features)
        return {
            **super().diagnose(batch),
            "mi/exact": exact.sum(),
            "mi/club_now": self.q.club(q, action, self.config.negatives, free).sum(dim=-1).mean(),
            "mi/held_out": self._per_step(self.q.log_likelihood(q, action), free),
            "mi/policy": self._per_step(log_prob, free),
        }


class MIR2(maddpg.MADDPG):
    """The defender of the paper."""

    name: ClassVar[str] = "mir2"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = Mir2Learner

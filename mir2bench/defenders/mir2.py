"""MIR2: mutual information as robust regularisation (the paper's method).

The team maximises E[ sum_t r_t - lambda I(h_t; a_t) ] on attack-free episodes (Proposition 1). It is MADDPG with one
line changed,

    y = r - lambda I_t + gamma Q'(s', o', pi'(o')),        I_t = sum_i I^i_t,

where I^i_t is the share of sample t in CLUB's upper bound of I(h^i; a^i) (Cheng et al. 2020),

    I^i_t = log q(a^i_t | h^i_t) - mean_k log q(a^i_t | h^i_k),

and q is fitted to the same batches by maximum likelihood: L_q = - mean_t sum_i log q(a^i_t | h^i_t). For several steps
of reward before the bootstrap, I_t stands for each of them. With lambda = 0 it is MADDPG bit for bit.

Differences from the paper and from its authors' code:
1. I(h^i; a^i) per agent by default, which for factorised policies bounds the joint I(h; a) from above; `joint` switches
   to one q(a | h^1 ... h^N). Theirs conditions on the global state, averaged over agents.
2. h^i enters as the actor's last hidden layer, detached. The actor sees the history through it alone, so
   I(h; a) = I(features; a); for recurrent actors it is the memory, as in their description.
3. q is linear in these features and its standard deviation at least the exploration noise. Theirs confines the variance
   to [0.37, 2.7], which cannot express noise of 0.1, and reads the features of a separate network.
4. q is fitted to replay samples; theirs to replay slot 0, the first random episode, until the ring wraps.
5. Discrete actions have one softmax per agent; theirs one over all agents' actions, whose label is agent 0's alone.
6. Negative pairs come in closed form from all transitions of the batch, O(n); theirs are n^2 pairs with padding.
7. `negatives="histories"` groups the negative pairs so that the penalty, as a function of the agent's own action, has
   the gradient of the mutual information; "actions" is the grouping of CLUB's authors and of theirs. The estimate
   itself, the mean, is the same (see `learning.mutual_information`).
8. lambda weighs nats against rewards scaled to 1 per step over the variant's score range, so that it means the same in
   every family; theirs weighs raw rewards, and is 0 unless given on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.mutual_information import ActionModel, Negatives, exact_categorical, exact_gaussian
from mir2bench.learning.networks import legal_logits
from mir2bench.learning.replay import Batch
from mir2bench.learning.tasks import Task


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of MIR2, beside those of MADDPG.

    Attributes:
        lam: lambda, weight of one nat against a reward of 1 per step over the variant's score range.
        club_lr: Adam's step size for q.
        joint: one q(a | h^1 ... h^N) instead of one q(a^i | h^i) per agent.
        negatives: how the negative pairs are grouped, "histories" or "actions".
    """

    lam: float = 1e-2
    club_lr: float = 5e-3
    joint: bool = False
    negatives: Negatives = "histories"

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self._mi: dict[str, Tensor] = {}
        self._drawn = torch.Generator().manual_seed(seed)  # apart from training's, which diagnosis must not disturb

    def reward(self, batch: Batch, features: Tensor) -> Tensor:
        """Return r_t - lambda I_t, (M,), and fit q to the batch afterwards."""
        with torch.enable_grad():
            q = self.q(features)
            log_likelihood = self.q.log_likelihood(q, batch.action).sum(dim=-1).mean()
            information = self.q.club(q, batch.action, self.config.negatives).sum(dim=-1).detach()
            self._descend(-log_likelihood, self.q_optimizer)
        self._mi = {"mi/club": information.mean(), "mi/log_likelihood": log_likelihood.detach()}
        return batch.reward - self.config.lam * batch.weight * information

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make MADDPG's update with the charged reward; logs the estimate and q's likelihood as well."""
        return {**super().update(batch), **self._mi}

    def diagnose(self, batch: Batch) -> dict[str, Tensor]:
        """Log, for the current policy at the batch's histories: the exact information and CLUB's, and q's likelihood.

        The actions are drawn anew, so q has never seen them: "mi/held_out" beside "mi/entropy" (the likelihood that a
        perfect q would have) tells how well q fits, "mi/club_now" beside "mi/exact" how loose the bound is.
        """
        with torch.no_grad():
            features = self.actor.features_now(batch)
            logits = self.actor.head(features)
            if self.actor.shape.discrete:
                log_probs = legal_logits(logits, batch.mask).log_softmax(dim=-1)
                probs = log_probs.exp()
                index = torch.multinomial(probs.flatten(0, 1), 1, generator=self._drawn).view(probs.shape[:2])
                action = torch.nn.functional.one_hot(index, probs.shape[-1]).float()
                exact = exact_categorical(log_probs).sum()
                best = (log_probs.clamp_min(-1e9) * probs).sum(dim=-1)
            else:
                mean = torch.tanh(logits)
                noise = torch.randn(mean.shape, generator=self._drawn) * self.config.noise
                action = (mean + noise).clamp(-1.0, 1.0)
                exact = exact_gaussian(mean, max(self.config.noise, 1e-3), self._drawn).sum()
                normal = torch.distributions.Normal(mean, max(self.config.noise, 1e-3))
                best = normal.log_prob(action).sum(dim=-1)
            q = self.q(features)
            figures = {
                "mi/exact": exact,
                "mi/club_now": self.q.club(q, action, self.config.negatives).mean(dim=0).sum(),
                "mi/held_out": self.q.log_likelihood(q, action).sum(dim=-1).mean(),
                "mi/entropy": best.sum(dim=-1).mean(),
            }
        return {**super().diagnose(batch), **figures}


class MIR2(maddpg.MADDPG):
    """The defender of the paper."""

    name: ClassVar[str] = "mir2"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = Mir2Learner

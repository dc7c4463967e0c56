"""RoM-Q (Nisioti et al. 2021) on the actor-critic backbone: a team ready to lose any one of its members.

An adversary that knows the value of joint actions chooses which agent to take over and what it does. The worst case is
in the backup, so that no attack is simulated during training:

    y    = r + gamma V'(s', o', a'),    a' = pi'(o')
    L_pi = - mean V(s, o, a),           a  = pi(o)

    V(s, o, a) = min_{i, b} Q(s, o, (b, a^{-i}))    with probability delta
                 Q(s, o, a)                         otherwise

where a share delta of each batch's transitions stands for the probability. With delta = 0 it is MADDPG bit for bit,
with delta = 1 the backup is the paper's.

Differences from the paper and from its authors' code:
1. The paper has tables and one greedy joint action; here an actor ascends the same minimum.
2. With delta the team also stays good without an adversary; the paper has the minimum alone.
3. Discrete actions: the minimum is exact over all agents and their legal actions. Continuous ones: the gradient of the
   shared critic names the worst corner of each agent's action box, and the critic compares the three corners that
   promise to hurt most. The team's own action is not among them, so where all three raise Q the minimum is missed.
4. Exactly one agent is lost, whatever the number of adversaries in the variant.
5. The code published with MIR2 under this name is another algorithm: with probability 0.3 a random agent is adversarial
   for a whole episode of training, acts against the critic, and its own steps are left out of the actor's loss; the
   backup is MADDPG's. `official=True` gives that (`delta` is then the probability of such an episode). There, its
   discrete adversary minimizes a local value that was trained with max in place of min and over illegal actions too;
   ours minimizes the critic over legal ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.networks import Critic
from mir2bench.learning.replay import Batch
from mir2bench.learning.tasks import Task, TeamTask
from mir2bench.learning.worst_case import Situation, descend, share, worst_replacement
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of RoM-Q, beside those of MADDPG.

    Attributes:
        delta: share of the worst case in the backup and in the actor's loss; the probability of an attacked episode if
            `official`.
        official: the algorithm of the code published with MIR2 (difference 5).
        descent_steps, descent_size: signed gradient steps of the official adversary in one step of the world, and their
            size.
    """

    delta: float = 0.4
    official: bool = False
    descent_steps: int = 10
    descent_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta <= 1:
            raise ConfigError(f"delta is a share from 0 to 1, but it is {self.delta}.")


class RomqLearner(maddpg.MaddpgLearner):
    """MADDPG that counts on losing its most harmful member."""

    config: Config

    def next_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return V'(s'), (M,)."""
        if self.config.delta == 0 or self.config.official:
            return super().next_value(batch, action)
        at = Situation(batch.next_state, batch.next_obs, action, batch.next_mask, batch.phi)
        return self._attacked(self.target_critic, at)

    def actor_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return what the actor ascends, (M,)."""
        if self.config.official:  # the adversary's own steps teach the actor nothing
            action = torch.where(batch.phi[..., None] > 0, batch.action, action)
        if self.config.delta == 0 or self.config.official:
            return super().actor_value(batch, action)
        at = Situation(batch.state, batch.obs, action, batch.mask, batch.phi)
        return self._attacked(self.critic, at)

    def _attacked(self, critic: Critic, at: Situation) -> Tensor:
        """Return Q (M,) of the joint action, and its minimum instead in a share delta of the M transitions."""
        attacked = share(len(at.state), self.config.delta)
        spared = torch.ones(len(at.state), dtype=torch.bool).index_fill(0, attacked, False).nonzero()[:, 0]
        worst = worst_replacement(critic, at.rows(attacked), self.actor.shape.discrete)
        rest = at.rows(spared)
        value = critic(rest.state, rest.obs, rest.action, rest.phi)
        return torch.empty(len(at.state)).index_copy(0, spared, value).index_copy(0, attacked, worst)

    def intervene(self, task: Task, actions: np.ndarray) -> np.ndarray:
        """Let the official adversaries act against the critic; a team on attack-free episodes plays what it chose."""
        if not task.phi.any():
            return actions
        at = Situation.of(task, actions)
        worst = descend(self.critic, at, self.config.descent_steps, self.config.descent_size, task.layout.discrete)
        adversarial = task.phi > 0 if task.layout.discrete else task.phi[..., None] > 0
        return np.where(adversarial, worst, actions)


class ROMQ(maddpg.MADDPG):
    """The defender."""

    name: ClassVar[str] = "romq"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = RomqLearner

    config: Config

    def task(self, variant: VariantSpec, seed: int) -> TeamTask:
        """Return attack-free episodes; with `official`, a share delta of them has one adversary."""
        if not self.config.official:
            return super().task(variant, seed)
        rng = np.random.default_rng((seed, 1))
        return TeamTask(variant, self.config.worlds, attacked=self.config.delta, n_adversaries=1, rng=rng)

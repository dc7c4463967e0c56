"""ROMAX (Sun, Kim and How 2022): the others' worst actions, bounded by a relaxation of the critic.

For agent i all others may play anything within epsilon of their actions. The minimum of Q over that box is hard to
find, but a convex relaxation of the network bounds it from below at the cost of one pass. With the certified bound

    L^i(s, o, a) <= min_{ |b^j - a^j| <= epsilon for j != i, b^i = a^i } Q(s, o, b)

and a tightness weight kappa, target and actor loss mix it with the value itself:

    y    = r + gamma 1/n sum_i [ (1 - kappa) Q'(s', o', a') + kappa L'^i(s', o', a') ],       a' = pi'(o')
    L_pi = - mean 1/n sum_i [ (1 - kappa) Q(s, o, pi(o)) + kappa L^i(s, o, pi(o)) ]

where a share kappa of each batch's transitions takes the bound and the rest the value, which is the same in the mean.
With kappa = 0 it is MADDPG bit for bit. In discrete worlds the box around a one-hot is intersected with [0, 1].

Differences from the paper:
1. The relaxation is that of boxes (interval arithmetic), which passes through layer normalization; the paper's is that
   of ReLU networks by linear bounds, tighter for plain layers.
2. One critic for all agents (see `maddpg`), hence the mean over i.
3. The paper evaluates Q at the worst actions that the relaxation points to; here Q is at the team's own actions, the
   bound alone is pessimistic.
4. The bound is loose: on trained teams it lies 50 to 65 times as far below the value as the lowest value that a
   gradient search finds in the same box. kappa and epsilon are therefore far smaller than the paper's.
5. The relaxed networks of the code published with MIR2 are missing there, and both of its critics see the same moved
   actions; nothing could be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.bounds import lower_bounds
from mir2bench.learning.networks import Critic
from mir2bench.learning.replay import Batch
from mir2bench.learning.worst_case import Situation, share


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of ROMAX, beside those of MADDPG.

    Attributes:
        epsilon: how far each component of the others' actions may move; its range is 2.
        kappa: weight of the certified bound, from 0 to 1.
    """

    epsilon: float = 0.01
    kappa: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kappa <= 1:
            raise ConfigError(f"kappa is a weight from 0 to 1, but it is {self.kappa}.")


class RomaxLearner(maddpg.MaddpgLearner):
    """MADDPG that values the worst its team-mates could do nearby."""

    config: Config

    def next_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return the mixed value (M,) at the bootstrap observations."""
        value = super().next_value(batch, action)
        at = Situation(batch.next_state, batch.next_obs, action, batch.next_mask, batch.phi)
        return self._bounded(self.target_critic, at, value)

    def actor_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return the mixed value (M,) that the actor ascends."""
        value = super().actor_value(batch, action)
        at = Situation(batch.state, batch.obs, action, batch.mask, batch.phi)
        return self._bounded(self.critic, at, value)

    def _bounded(self, critic: Critic, at: Situation, value: Tensor) -> Tensor:
        """Return the values (M,), and the mean certified bound instead in a share kappa of the M transitions."""
        if self.config.kappa == 0:
            return value
        rows = share(len(value), self.config.kappa)
        bounds = lower_bounds(critic, at.rows(rows), self.config.epsilon, self.actor.shape.discrete)
        return value.index_copy(0, rows, bounds.mean(dim=-1))


class ROMAX(maddpg.MADDPG):
    """The defender."""

    name: ClassVar[str] = "romax"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = RomaxLearner

"""M3DDPG (Li et al. 2019): every agent expects all others to move against it.

MADDPG whose target and actor loss are those of a minimax game, solved by one gradient step: for agent i the actions of
all others j != i are moved by epsilon against the gradient of the value,

    a~^j = a^j - epsilon g^j / |g^j|,                       g^j = grad_{a^j} Q(s, o, a)
    y    = r + gamma Q'(s', o', a'^i, a~'^{-i}),            a' = pi'(o'), g' from Q' at a'
    L_pi = - mean sum_i Q(s, o, pi(o^i), a~^{-i}),          a = pi(o), its gradient through pi(o^i) alone

With epsilon = 0 it is MADDPG bit for bit. One gradient of the shared critic serves all agents.

Differences from the paper and from its authors' code:
1. One critic for all agents (see `maddpg`), fitted to the targets of all i in turn: transition k of a batch to that of
   agent k mod n. The paper has n critics.
2. Moved continuous actions are clipped to their range, which the paper does not do. In discrete worlds one-hots move
   as vectors: no weight goes to illegal actions, but the result is not projected onto the simplex.
3. One epsilon for everybody. Their code has two (1e-3 for competitors, 1e-5 for team-mates), uses only the first in
   the target, and then builds the actor's loss from the unmoved value: its actor update is plain MADDPG.
4. The others' actions in the actor's loss are the present policy's, moved; the paper moves those stored in the replay.
5. The code published with MIR2 moves only agent i's own action in the target, does not normalize, applies to stored
   actions a perturbation found at the present policy's, and makes n optimizer steps for MADDPG's one.
   `official=True` gives its target and its actor loss; the number of steps stays one, so that the comparison is fair.

The loss of the actor is a sum over agents, n times MADDPG's; Adam does not see the factor. With a fixed epsilon the
moved team cannot settle at an optimum: there the gradient's direction turns with every small step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.learning.replay import Batch
from mir2bench.learning.worst_case import Situation, embed_with_gradient, step_against


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings of M3DDPG, beside those of MADDPG.

    Attributes:
        epsilon: length of the step that moves the other agents' actions; the range of an action component is 2.
        official: the target and the actor loss of the code published with MIR2 (difference 5).
    """

    epsilon: float = 1.0
    official: bool = False


class M3ddpgLearner(maddpg.MaddpgLearner):
    """MADDPG against team-mates that err in the worst direction."""

    config: Config

    def next_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return Q'(s', o', a'^i, a~'^{-i}), (M,), with i = k mod n for transition k."""
        if self.config.epsilon == 0:
            return super().next_value(batch, action)
        critic = self.target_critic
        at = Situation(batch.next_state, batch.next_obs, action, batch.next_mask, batch.phi)
        now, gradient = embed_with_gradient(critic, at)
        moved = self._move(action, gradient, at.mask)
        keeps = torch.eye(action.shape[1], dtype=torch.bool)[torch.arange(len(action)) % action.shape[1], :, None]
        joint = torch.where(keeps ^ self.config.official, action, moved)
        return critic.judge(critic.embed(now.read, joint).mean(dim=-2), now.world)

    def actor_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return sum_i Q(s, o, pi(o^i), a~^{-i}), (M,), whose gradient flows through each agent's own action alone."""
        if self.config.epsilon == 0:
            return super().actor_value(batch, action)
        at = Situation(batch.state, batch.obs, action, batch.mask, batch.phi)
        now, gradient = embed_with_gradient(self.critic, at)
        start = batch.action if self.config.official else action
        with torch.no_grad():
            moved = self.critic.embed(now.read, self._move(start, gradient, at.mask))
        return self.critic.judge_replacements(moved, now.agents, now.world).sum(dim=-1)

    def _move(self, action: Tensor, gradient: Tensor, mask: Tensor | None) -> Tensor:
        """Return a~ of all agents, (M, n, A)."""
        if self.config.official:
            return action.detach() - self.config.epsilon * gradient
        return step_against(action, gradient, self.config.epsilon, mask, self.actor.shape.discrete)


class M3DDPG(maddpg.MADDPG):
    """The defender."""

    name: ClassVar[str] = "m3ddpg"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = M3ddpgLearner

"""MADDPG for team-mates that slip: in the target each agent's next action is random now and then,

    y = r + gamma Q'(s', o', b),      b^i = pi'(o'^i) with probability 1 - epsilon, else uniform over the legal actions.

It is the probabilistic form of action robustness (Tessler et al. 2019, "Action Robust Reinforcement Learning and
Applications in Continuous Control"), with chance in the place of their adversary and a coin for each agent of its own.
One method of MADDPG is overridden. With epsilon = 0 it is MADDPG bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.errors import ConfigError
from mir2bench.learning.replay import Batch
from mir2bench.learning.tasks import Task


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings beside those of MADDPG.

    Attributes:
        epsilon: probability that an agent slips, from 0 to 1.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon > 1:
            raise ConfigError(f"epsilon must be at most 1, but it is {self.epsilon}.")


class SlipLearner(maddpg.MaddpgLearner):
    """MADDPG whose target lets agents slip."""

    config: Config

    def __init__(self, task: Task, config: Config, seed: int) -> None:
        super().__init__(task, config, seed)
        # Apart from the backbone's generator: with epsilon = 0 all else is drawn as MADDPG draws it.
        self.slips = torch.Generator().manual_seed(seed)

    def next_action(self, batch: Batch) -> Tensor:
        """Return the target policy's joint action (M, n, A) after slips, at the bootstrap observations."""
        action = super().next_action(batch)
        if self.actor.shape.discrete:
            legal = torch.ones_like(action) if batch.next_mask is None else batch.next_mask
            drawn = torch.multinomial(legal.flatten(0, 1), 1, generator=self.slips).view(action.shape[:2])
            slipped = torch.nn.functional.one_hot(drawn, action.shape[-1]).to(action.dtype)
        else:
            slipped = 2 * torch.rand(action.shape, generator=self.slips) - 1
        slips = torch.rand(action.shape[:2], generator=self.slips) < self.config.epsilon
        return torch.where(slips[..., None], slipped, action)


class SlipMADDPG(maddpg.MADDPG):
    """The defender."""

    name: ClassVar[str] = "slip-maddpg"
    Config: ClassVar[type] = Config
    Learner: ClassVar[type[maddpg.MaddpgLearner]] = SlipLearner

"""A defender by one overridden method: MADDPG that pays for large actions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mir2bench.defenders import maddpg
from mir2bench.learning.replay import Batch


@dataclass(frozen=True)
class Config(maddpg.Config):
    """Settings beside those of MADDPG.

    Attributes:
        cost: of the mean squared action, in rewards scaled to 1 per step.
    """

    cost: float = 0.01


class Learner(maddpg.MaddpgLearner):
    """MADDPG's update with another reward."""

    config: Config

    def reward(self, batch: Batch, features: Tensor) -> Tensor:
        """Return the rewards (M,) that the critic learns from."""
        effort = batch.action.square().mean(dim=(1, 2))
        return super().reward(batch, features) - self.config.cost * batch.weight * effort


class Thrifty(maddpg.MADDPG):
    """The defender."""

    name = "thrifty"
    Config = Config
    Learner = Learner

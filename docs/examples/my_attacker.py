"""An attacker from scratch: many random networks play, and the one that hurts most is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mir2bench.attackers.checks import check_attack
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class Config:
    """Settings of the random search.

    Attributes:
        candidates: networks to try, fewer on a small budget.
        hidden: width of their layers.
    """

    candidates: int = 256
    hidden: int = 16


class RandomSearch:
    """The attacker."""

    Config = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()

    def attack(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        *,
        seed: int,
        budget: int,
        callback: Callback | None = None,
    ) -> NetworkPolicy:
        """Return the most harmful network found within `budget` environment steps."""
        check_attack("random search", variant, phi, budget)
        layout = variant.layout
        shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, self.config.hidden, recurrent=False)
        candidates = max(1, min(self.config.candidates, budget // variant.horizon))
        episodes = max(1, budget // (variant.horizon * candidates))
        best, lowest = None, float("inf")
        for number in range(candidates):
            with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator only
                torch.manual_seed(1000 * seed + number)
                policy = NetworkPolicy(Actor(shape), phi.weight)
            left = float(rollout(variant, victim, phi, policy, range(episodes)).returns.mean())
            if best is None or left < lowest:
                best, lowest = policy, left
            if callback is not None:
                callback(Progress(budget * (number + 1) // candidates, budget, {"attacked_return": lowest}))
        assert best is not None  # there is at least one candidate
        return best

"""An attack without gradients: the cross-entropy method (Rubinstein 1999) on a linear policy over random features.

The adversaries' actor keeps the hidden layers that chance gave it; its last layer is searched for. Each generation
draws a population of last layers from a normal distribution, plays all of them on the same start, and moves mean and
standard deviation to those of the share that hurt the team most.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mir2bench.attackers.checks import check_attack
from mir2bench.errors import ConfigError
from mir2bench.learning.networks import Actor, ActorShape, legal_logits
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.rollout import rollout
from mir2bench.learning.tasks import AdversaryTask
from mir2bench.learning.threads import one_torch_thread
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

SELECTION_SEED = 3_000_000
"""First of the seeds on which progress is measured; apart from training's and evaluation's."""


@dataclass(frozen=True)
class Config:
    """Settings of the cross-entropy attack.

    Attributes:
        population: candidates per generation.
        elites: share of them that the next generation follows, from 0 to 1.
        hidden: number of random features.
        spread: standard deviation of the first generation.
        least_spread: what the standard deviation never falls below.
    """

    population: int = 64
    elites: float = 0.125
    hidden: int = 16
    spread: float = 1.0
    least_spread: float = 0.02

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be a finite number above 0, but it is {value}.")
        if self.elites > 1:
            raise ConfigError(f"elites must be at most 1, but it is {self.elites}.")


class CrossEntropyAttacker:
    """Searches for the adversaries of one phi against one frozen team."""

    name: ClassVar[str] = "cross-entropy"
    Config: ClassVar[type] = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = self.Config() if config is None else config

    @one_torch_thread()
    @torch.no_grad()
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
        """Search for `budget` environment steps and return the policy in the middle of the last generation's best.

        Args:
            variant: the world.
            victim: the frozen team.
            phi: who is adversarial; at least one agent.
            seed: determines everything that is drawn.
            budget: environment steps over all candidates; a small one means a smaller population or shorter episodes.
            callback: gets reports whose "attacked_return" is the team's return under the present policy.

        Raises:
            PartitionError, ConfigError: see `check_attack`.
        """
        check_attack(self.name, variant, phi, budget)
        config = self.config
        rng, starts, of_victim = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
        population = min(config.population, budget)
        steps = min(variant.horizon, budget // population)
        generations = budget // (population * steps)
        task = AdversaryTask(variant, population, victim, phi, of_victim)
        layout = variant.layout
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator only
            torch.manual_seed(seed)
            actor = Actor(ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, config.hidden, False))
        policy = NetworkPolicy(actor, phi.weight)
        elites = max(1, round(config.elites * population))
        mean = np.zeros((layout.action_dim, config.hidden + 1), np.float32)  # weights and, last, biases
        spread = np.full_like(mean, config.spread)
        for generation in range(1, generations + 1):
            heads = mean + spread * rng.standard_normal((population, *mean.shape), dtype=np.float32)
            gain = play(task, actor, torch.from_numpy(heads), steps, int(starts.integers(2**63)))
            best = heads[np.argsort(-gain, kind="stable")[:elites]]
            mean, spread = best.mean(axis=0), np.maximum(best.std(axis=0), config.least_spread)
            actor.head.weight.copy_(torch.from_numpy(mean[:, :-1]))
            actor.head.bias.copy_(torch.from_numpy(mean[:, -1]))
            if callback is not None and (generation == generations or generation % max(1, generations // 8) == 0):
                seeds = range(SELECTION_SEED, SELECTION_SEED + 32)
                attacked = float(rollout(variant, victim, phi, policy, seeds).returns.mean())
                callback(Progress(generation * population * steps, budget, {"attacked_return": attacked}))
        return policy


def play(task: AdversaryTask, actor: Actor, heads: Tensor, steps: int, seed: int) -> np.ndarray:
    """Let every candidate play the first steps of the same episode.

    Args:
        task: one world per candidate, P in all.
        actor: gives the features.
        heads: (P, A, H + 1) last layers, biases at the end.
        steps: how many.
        seed: of the episode.

    Returns:
        (P,) what the candidates gained: the scaled reward that they took from the team.
    """
    task.reset(seeds=[seed] * task.batch)
    gain, active = np.zeros(task.batch), np.ones(task.batch, dtype=bool)
    for _ in range(steps):
        features = actor.features(torch.from_numpy(task.obs))
        out = actor.squash(torch.einsum("pnh,pah->pna", features, heads[..., :-1]) + heads[:, None, :, -1])
        if actor.shape.discrete:
            mask = task.mask
            out = legal_logits(out, None if mask is None else torch.from_numpy(mask)).argmax(dim=-1)
        task.step(out.numpy())
        gain[active] += task.reward[active]
        ended = task.terminated | task.truncated
        active &= ~ended
        if ended.any():
            task.reset(np.flatnonzero(ended))  # what follows in those worlds does not count
    return gain

"""The adversaries' task for on-policy learners, whose batches are rollouts much shorter than an episode."""

from __future__ import annotations

import numpy as np

from mir2bench.learning.tasks import AdversaryTask
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec


class StaggeredTask(AdversaryTask):
    """B worlds that stand at all phases of an episode at once.

    Each world's first episode is cut at a random time, like by a time limit. Had they all begun together, every batch
    would show one phase alone, and learning from it would spoil what was learned about the others.

    Args:
        variant, batch, victim, phi: see `AdversaryTask`.
        seed: determines starts, cuts and the generator of victims that need one.
    """

    def __init__(self, variant: VariantSpec, batch: int, victim: Policy, phi: Partition, seed: int) -> None:
        starts, own = np.random.SeedSequence(seed).generate_state(2)
        super().__init__(variant, batch, victim, phi, np.random.default_rng(own))
        rng = np.random.default_rng(starts)
        self._clock = 0
        self._cuts = rng.integers(1, variant.horizon + 1, size=batch)
        self.reset(seeds=rng.integers(2**63, size=batch).tolist())

    @property
    def truncated(self) -> np.ndarray:
        return super().truncated | ((self._clock == self._cuts) & ~self.terminated)

    @property
    def ended(self) -> np.ndarray:
        """(B,) bool: terminated or truncated."""
        return self.terminated | self.truncated

    def step(self, actions: np.ndarray) -> None:
        """See `Task.step`."""
        super().step(actions)
        self._clock += 1

    def restart(self) -> None:
        """Start anew the episodes that have ended."""
        over = np.flatnonzero(self.ended)
        if over.size:
            self.reset(over)

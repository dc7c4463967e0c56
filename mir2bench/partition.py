"""Partitions of a team into defenders and adversaries, and the joint policy they perturb (paper, section
"Action Adversarial Dec-POMDP").

A partition is phi in {0, 1}^N: phi^i = 1 means that agent i's policy is replaced by an adversarial one. Phi^alpha is
the set of partitions a variant allows: here, all with exactly K ones. phi = 0 is the plain Dec-POMDP.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mir2bench.errors import PartitionError


@dataclass(frozen=True, slots=True)
class Partition:
    """One phi in {0, 1}^N; immutable and hashable.

    Attributes:
        phi: tuple of N integers, 1 for an adversary.
    """

    phi: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            values = [int(v) for v in self.phi]
            exact = all(float(v) == i for v, i in zip(self.phi, values, strict=True))
        except (TypeError, ValueError, OverflowError):
            values, exact = [], False
        if not exact or not set(values) <= {0, 1}:
            raise PartitionError(
                f"phi must hold only 0 (defender) and 1 (adversary), but it is {list(self.phi)!r}. "
                "Give one number per agent, for example [0, 0, 1]."
            )
        object.__setattr__(self, "phi", tuple(values))

    @property
    def n_agents(self) -> int:
        """N."""
        return len(self.phi)

    @property
    def weight(self) -> int:
        """The number of adversaries."""
        return sum(self.phi)

    @property
    def adversaries(self) -> tuple[int, ...]:
        """Indices of the adversaries, ascending."""
        return tuple(i for i, v in enumerate(self.phi) if v)

    @property
    def label(self) -> str:
        """A short text for tables and file names: "none" or the adversaries' indices, as in "2+5"."""
        return "+".join(map(str, self.adversaries)) or "none"

    def to_array(self) -> np.ndarray:
        """Return phi as an int8 array of shape (N,)."""
        return np.array(self.phi, dtype=np.int8)

    @classmethod
    def of(cls, n_agents: int, adversaries: Sequence[int] = ()) -> Partition:
        """Build the partition of `n_agents` in which `adversaries` (indices) are adversarial."""
        chosen = set(adversaries)
        if not all(0 <= i < n_agents for i in chosen):
            raise PartitionError(f"adversaries {sorted(chosen)} are not all agents of 0 to {n_agents - 1}.")
        return cls(tuple(int(i in chosen) for i in range(n_agents)))

    @classmethod
    def parse(cls, phi: object, n_agents: int, n_adversaries: int | None = None) -> Partition:
        """Check what a caller gave as phi.

        Args:
            phi: a Partition or a sequence of N zeros and ones.
            n_agents: N.
            n_adversaries: K that the variant allows; None allows any. The plain phi = 0 is always allowed, since it is
                the control arm of every attack.

        Raises:
            PartitionError: wrong type, length, values or number of adversaries.
        """
        if not isinstance(phi, Partition):
            try:
                array = np.asarray(phi)
            except ValueError:  # rows of different lengths
                array = np.empty((0, 0))
            if array.ndim != 1:
                raise PartitionError(f"phi must be a flat list of {n_agents} zeros and ones, but it is {phi!r}.")
            values: Any = array.tolist()
            phi = cls(tuple(values))
        if phi.n_agents != n_agents:
            raise PartitionError(f"phi has {phi.n_agents} entries, but this variant has {n_agents} agents.")
        if n_adversaries is not None and phi.weight not in (0, n_adversaries):
            advice = (
                "With all agents adversarial there is no team left: set some entries to 0."
                if phi.weight == n_agents
                else "Choose the variant with the matching `-advK`."
            )
            raise PartitionError(
                f"phi names {phi.weight} adversaries, but this variant allows exactly {n_adversaries} "
                f"(or none, as the clean control). {advice}"
            )
        return phi


def count_partitions(n_agents: int, n_adversaries: int) -> int:
    """Return |Phi^alpha|, the number of partitions with exactly `n_adversaries` ones."""
    return math.comb(n_agents, n_adversaries)


def enumerate_partitions(n_agents: int, n_adversaries: int) -> Iterator[Partition]:
    """Yield Phi^alpha in lexicographic order of the adversaries' indices."""
    for chosen in itertools.combinations(range(n_agents), n_adversaries):
        yield Partition.of(n_agents, chosen)


def sample_partition(n_agents: int, n_adversaries: int, rng: np.random.Generator) -> Partition:
    """Draw one partition uniformly from Phi^alpha."""
    return Partition.of(n_agents, rng.permutation(n_agents)[:n_adversaries].tolist())


def sample_partitions(n_agents: int, n_adversaries: int, count: int, rng: np.random.Generator) -> list[Partition]:
    """Draw `count` distinct partitions uniformly from Phi^alpha, in lexicographic order; all if there are fewer.

    Source: paper, "Evaluation protocol" (5 random attack scenarios for more than one adversary).
    """
    if count_partitions(n_agents, n_adversaries) <= count:
        return list(enumerate_partitions(n_agents, n_adversaries))
    drawn: set[Partition] = set()
    while len(drawn) < count:
        drawn.add(sample_partition(n_agents, n_adversaries, rng))
    return sorted(drawn, key=lambda p: p.adversaries)


def perturb(team_actions: np.ndarray, adversary_actions: np.ndarray, partition: Partition) -> np.ndarray:
    """Compose the perturbed joint action a-hat: adversaries' actions where phi^i = 1, the team's elsewhere.

    Args:
        team_actions: (B, N, ...) what the team policy chose for all agents.
        adversary_actions: (B, K, ...) what the adversarial policy chose, in ascending order of agents.
        partition: phi with K ones.

    Returns:
        A new array (B, N, ...) of the wider dtype of both.
    """
    joint = np.array(team_actions, dtype=np.result_type(team_actions, adversary_actions))
    joint[:, list(partition.adversaries)] = adversary_actions
    return joint

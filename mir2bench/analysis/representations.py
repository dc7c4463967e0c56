"""What the defenders' networks make of clean and of attacked episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mir2bench.errors import PolicyError
from mir2bench.learning.networks import Actor
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Carry, Policy
from mir2bench.registration import VariantSpec


@dataclass(frozen=True, slots=True)
class Recording:
    """What n agents saw and represented in E episodes.

    Attributes:
        obs: (E, T, n, O) float32; only the first `lengths[e]` steps of episode e mean anything.
        features: (E, T, n, H) float32, the actor's last hidden layer.
        lengths: (E,) steps.
        returns: (E,) the team's.
    """

    obs: np.ndarray
    features: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray


class _Watched:
    """A network policy that keeps what it saw and represented for some of its agents."""

    def __init__(self, policy: NetworkPolicy, agents: Sequence[int]) -> None:
        self._policy = policy
        self._agents = list(agents)
        self.obs: list[np.ndarray] = []
        self.features: list[np.ndarray] = []

    def initial_carry(self, batch: int) -> Carry:
        return self._policy.initial_carry(batch)

    @torch.no_grad()
    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        memory = None if carry is None else torch.from_numpy(carry)
        features = self._policy.actor.features(torch.from_numpy(obs), memory).numpy()
        self.obs.append(obs[:, self._agents])
        self.features.append(features[:, self._agents])
        return self._policy.act(obs, carry, mask, rng=rng, deterministic=deterministic)


def check_network(team: Policy, name: str) -> NetworkPolicy:
    """Return the team.

    Raises:
        PolicyError: it has no network, or one for each agent, whose representations have nothing in common.
    """
    if not isinstance(team, NetworkPolicy) or not isinstance(team.actor, Actor):
        raise PolicyError(
            f"{name} has no network that its agents share, so it has no representations to look at. Give bundles of "
            "trained teams."
        )
    return team


def record(
    variant: VariantSpec,
    team: Policy,
    name: str,
    agents: Sequence[int],
    phi: Partition,
    adversary: Policy | None,
    seeds: Sequence[int],
) -> Recording:
    """Play one episode per seed and keep what some agents saw and represented.

    Args:
        variant: the world.
        team: policy of all N agents.
        name: how errors call it.
        agents: whose representations are kept, the same in clean and attacked episodes.
        phi, adversary, seeds: see `rollout`.

    Raises:
        PolicyError: the team has no network.
    """
    watched = _Watched(check_network(team, name), agents)
    episodes = rollout(variant, watched, phi, adversary, seeds, team_name=name)
    return Recording(
        obs=np.stack(watched.obs, axis=1),
        features=np.stack(watched.features, axis=1),
        lengths=episodes.lengths,
        returns=episodes.returns,
    )


@dataclass(frozen=True, slots=True)
class Cells:
    """Which (step, agent) of each episode is looked at; agents count among the recorded ones.

    Attributes:
        steps: (E, M).
        agents: (E, M).
    """

    steps: np.ndarray
    agents: np.ndarray

    def take(self, values: np.ndarray) -> np.ndarray:
        """Return (E, M, D) of (E, T, n, D)."""
        return values[np.arange(len(values))[:, None], self.steps, self.agents]


def draw_cells(first: Recording, second: Recording, points: int, rng: np.random.Generator) -> Cells:
    """Draw M = `points` different cells of each episode that both recordings have.

    M is smaller where the shortest episode has fewer cells.
    """
    n = first.obs.shape[2]
    both = np.minimum(first.lengths, second.lengths) * n
    count = min(points, int(both.min()))
    flat = np.stack([np.sort(rng.choice(cells, size=count, replace=False)) for cells in both])
    return Cells(flat // n, flat % n)

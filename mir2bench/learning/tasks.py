"""What a learner plays: the whole team, or the adversaries of one partition against a frozen team.

Both have the same face, so that one training loop serves defenders and attackers.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mir2bench.engines.base import Layout, Worlds
from mir2bench.learning.state import State, restore, state_of
from mir2bench.learning.tape import Tape
from mir2bench.partition import Partition, perturb
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec


class Task(Protocol):
    """B parallel episodes of n learning agents.

    Attributes:
        layout: sizes of observations and actions.
        batch: B.
        n_agents: n, the learning agents.
        horizon: longest episode.
        reward_scale: factor that brings the variant's whole score range to 1 per step; see `reward_scale`.
        obs: (B, n, O) float32.
        state: (B, S) float32.
        mask: (B, n, A) int8 or None.
        phi: (B, n) int8, which of the learning agents do not follow the learned policy in the running episode.
        reward: (B,) float64, what the learners maximize, scaled.
        terminated, truncated: (B,) bool.
    """

    layout: Layout
    batch: int
    n_agents: int
    horizon: int
    phi: np.ndarray

    @property
    def obs(self) -> np.ndarray: ...
    @property
    def state(self) -> np.ndarray: ...
    @property
    def mask(self) -> np.ndarray | None: ...
    @property
    def reward(self) -> np.ndarray: ...
    @property
    def terminated(self) -> np.ndarray: ...
    @property
    def truncated(self) -> np.ndarray: ...

    def reset(self, worlds: np.ndarray | None = None, seeds: list[int] | None = None) -> None:
        """Start new episodes in the given worlds (all by default)."""
        ...

    def step(self, actions: np.ndarray) -> None:
        """Play (B, n, A) or (B, n) actions of the learning agents."""
        ...


def reward_scale(variant: VariantSpec) -> float:
    """Return horizon / (ceiling - floor): a policy at the ceiling earns 1 a step more than one at the floor.

    With it a learning rate, a noise level or the lambda of MIR2 means the same in every family.
    """
    return variant.horizon / (variant.ceiling.score - variant.floor.score)


class TeamTask:
    """The whole team learns: on the plain Dec-POMDP (phi = 0), or with adversaries in some of the episodes.

    The task only says who is adversarial; what those agents do is up to the learner (`Learner.intervene`). With
    `attacked` = 0 nothing is drawn. A subclass with state of its own extends `state_dict` and `load_state_dict`.

    Args:
        variant: the world.
        batch: B.
        attacked: probability that an episode has adversaries; they are drawn uniformly.
        n_adversaries: how many; by default as many as the variant has, or one where it has none.
        rng: draws the partitions.
    """

    def __init__(
        self,
        variant: VariantSpec,
        batch: int,
        *,
        attacked: float = 0.0,
        n_adversaries: int | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.phi = np.zeros((batch, variant.n_agents), dtype=np.int8)
        self._attacked = attacked
        self._n_adversaries = max(1, variant.n_adversaries) if n_adversaries is None else n_adversaries
        self._rng = np.random.default_rng(0) if rng is None else rng
        self.worlds = Worlds(variant, batch)
        self.layout = self.worlds.layout
        self.batch = batch
        self.n_agents = variant.n_agents
        self.horizon = variant.horizon
        self._scale = reward_scale(variant)
        self._clean = Partition.of(variant.n_agents)
        self._tape = Tape(self.worlds, self._clean)

    @property
    def obs(self) -> np.ndarray:
        return self.worlds.engine.obs

    @property
    def state(self) -> np.ndarray:
        return self.worlds.engine.state

    @property
    def mask(self) -> np.ndarray | None:
        return self.worlds.engine.mask

    @property
    def reward(self) -> np.ndarray:
        return self.worlds.engine.reward * self._scale

    @property
    def terminated(self) -> np.ndarray:
        return self.worlds.engine.terminated

    @property
    def truncated(self) -> np.ndarray:
        return self.worlds.truncated

    def reset(self, worlds: np.ndarray | None = None, seeds: list[int] | None = None) -> None:
        """See `Task.reset`."""
        self._tape.start(worlds, seeds)
        self.worlds.reset(worlds, seeds=seeds, phi=self._clean)
        if self._attacked > 0:
            for world in range(self.batch) if worlds is None else worlds:
                self.phi[world] = 0
                if self._rng.random() < self._attacked:
                    self.phi[world, self._rng.permutation(self.n_agents)[: self._n_adversaries]] = 1

    def step(self, actions: np.ndarray) -> None:
        """See `Task.step`."""
        self.worlds.step(actions)
        self._tape.play(actions)

    def close(self) -> None:
        """End all episodes, and the games where there are any."""
        self.worlds.close()

    def state_dict(self) -> State:
        """See `state.Stateful`."""
        return {"worlds": self._tape.state_dict(), "phi": self.phi, "rng": state_of(self._rng)}

    def load_state_dict(self, state: State) -> None:
        """See `state.Stateful`.

        Raises:
            CheckpointError: see `Tape.load_state_dict`.
        """
        self._tape.load_state_dict(state["worlds"])
        self.phi[:] = state["phi"]
        restore(self._rng, state["rng"])


class AdversaryTask:
    """The adversaries of one phi learn to minimize the reward of a frozen, greedy team (paper, Eq. 3).

    The victim is part of the environment: its memory is reset with each episode and its actions for the adversaries'
    places are discarded. The learners maximize minus the reward channel that the variant names for attacks.

    Args:
        variant: the world.
        batch: B.
        victim: the frozen team policy; always greedy.
        phi: which agents learn.
        rng: generator for victims that need one.
    """

    def __init__(
        self, variant: VariantSpec, batch: int, victim: Policy, phi: Partition, rng: np.random.Generator
    ) -> None:
        self.worlds = Worlds(variant, batch)
        self.layout = self.worlds.layout
        self.batch = batch
        self.n_agents = phi.weight
        self.phi = np.zeros((batch, phi.weight), dtype=np.int8)
        self.horizon = variant.horizon
        self._index = list(phi.adversaries)
        self._phi = phi
        self._victim = victim
        self._rng = rng
        self._scale = reward_scale(variant)
        self._channel = variant.attack_reward
        self._fresh: Any = victim.initial_carry(batch)
        self._carry: Any = self._fresh

    @property
    def obs(self) -> np.ndarray:
        return self.worlds.engine.obs[:, self._index]

    @property
    def state(self) -> np.ndarray:
        return self.worlds.engine.state

    @property
    def mask(self) -> np.ndarray | None:
        mask = self.worlds.engine.mask
        return None if mask is None else mask[:, self._index]

    @property
    def reward(self) -> np.ndarray:
        return -self.worlds.engine.channels[self._channel] * self._scale

    @property
    def terminated(self) -> np.ndarray:
        return self.worlds.engine.terminated

    @property
    def truncated(self) -> np.ndarray:
        return self.worlds.truncated

    def reset(self, worlds: np.ndarray | None = None, seeds: list[int] | None = None) -> None:
        """See `Task.reset`."""
        self.worlds.reset(worlds, seeds=seeds, phi=self._phi)
        if worlds is None:
            self._carry = self._victim.initial_carry(self.batch)
        elif self._carry is not None:
            self._carry = np.array(self._carry)
            self._carry[worlds] = self._fresh[worlds]

    def step(self, actions: np.ndarray) -> None:
        """See `Task.step`."""
        engine = self.worlds.engine
        team, self._carry = self._victim.act(engine.obs, self._carry, engine.mask, rng=self._rng)
        self.worlds.step(perturb(team, actions, self._phi))

    def close(self) -> None:
        """End all episodes, and the games where there are any."""
        self.worlds.close()

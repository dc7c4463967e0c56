"""A world whose returns can be added up by hand, and algorithms that train in no time, for the tests of evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from mir2bench.defenders import maddpg
from mir2bench.engines.base import Layout
from mir2bench.errors import NotApplicableError
from mir2bench.evaluation.protocol import Budget, Protocol
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback, Progress
from mir2bench.learning.state import Keeper
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import Anchor, VariantSpec


class TallyEngine:
    """Each step pays the mean of all actions; an episode ends after 3, 4 or 5 steps and is won if it lasted 5."""

    scripted_teams: ClassVar[Mapping[str, str]] = {"half": "evaluation_stubs:HalfTeam"}
    scripted_traitors: ClassVar[Mapping[str, str]] = {"spoil": "evaluation_stubs:SpoilTraitor"}
    drawing: ClassVar[str] = "evaluation_stubs:draw"

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        self.obs = np.zeros((batch, n_agents, 1 + n_agents), dtype=np.float32)
        self.obs[:, :, 1:] = np.eye(n_agents)
        self.state = np.zeros((batch, 1), dtype=np.float32)
        self.mask = None
        self.reward = np.zeros(batch)
        self.won = np.zeros(batch)
        self.channels = {"team": self.reward, "won": self.won}
        self.terminated = np.zeros(batch, dtype=bool)
        self.lengths = np.zeros(batch, dtype=int)
        self._clock = np.zeros(batch, dtype=int)

    @classmethod
    @cache
    def layout(cls, n_agents: int) -> Layout:
        ids = tuple(f"id_{i}" for i in range(n_agents))
        return Layout(
            n_agents=n_agents,
            observation_fields=("length", *ids),
            state_fields=("length",),
            action_dim=1,
            discrete=False,
            action_fields=("pay",),
            obs_low=(0.0,) * (1 + n_agents),
            obs_high=(1.0,) * (1 + n_agents),
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        for world, generator in zip(worlds, generators, strict=True):
            self.lengths[world] = generator.integers(3, 6)
            self._clock[world] = 0
            self.obs[world, :, 0] = self.state[world, 0] = self.lengths[world] / 5

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        return {"obs": self.obs[world].copy()}

    def step(self, actions: np.ndarray) -> None:
        if (self._clock >= self.lengths).any():
            raise RuntimeError("a world was stepped after its end")
        self._clock += 1
        self.reward[:] = actions.mean(axis=(1, 2))
        self.terminated[:] = self._clock == self.lengths
        self.won[:] = self.terminated & (self.lengths == 5)


def tally(adversaries: int = 1, n_agents: int = 2) -> VariantSpec:
    """Return the spec of the tally world; nothing is registered."""
    return VariantSpec(
        id=f"mir2bench/Tally{n_agents}-adv{adversaries}-v0",
        family="Tally",
        n_agents=n_agents,
        n_adversaries=adversaries,
        horizon=10,
        engine="evaluation_stubs:TallyEngine",
        floor=Anchor(-5.0, "all actions -1"),
        ceiling=Anchor(5.0, "all actions 1"),
        history=("v0: first release.",),
    )


class ConstantPolicy:
    """Every agent always plays `value`, and remembers how often it was asked."""

    def __init__(self, value: float) -> None:
        self.value = value

    def initial_carry(self, batch: int) -> np.ndarray:
        return np.zeros(batch)

    def act(
        self,
        obs: np.ndarray,
        carry: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.full((*obs.shape[:2], 1), self.value, dtype=np.float32), carry + 1


class HalfTeam(ConstantPolicy):
    """Plays 1/2."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(0.5)


class SpoilTraitor(ConstantPolicy):
    """Plays -1, which is the worst there is."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(-1.0)


@dataclass(frozen=True)
class StubConfig:
    """Settings of the stub defender.

    Attributes:
        gain: scale of the random weights.
        trouble: "", or what goes wrong: "raise", "exit", "hang", "eat", "nan", or the path of a file that
            must not exist.
    """

    gain: float = 1.0
    trouble: str = ""


def _network(variant: VariantSpec, n_agents: int, seed: int, gain: float) -> NetworkPolicy:
    layout = variant.layout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = Actor(ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 4, False))
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.mul_(gain)
    return NetworkPolicy(actor.requires_grad_(False), n_agents)


class StubDefender:
    """Random weights that depend on the seed."""

    Config = StubConfig

    def __init__(self, config: StubConfig) -> None:
        self.config = config

    def train(self, variant: VariantSpec, *, seed: int, budget: int, callback: Callback | None = None) -> Policy:
        trouble = self.config.trouble
        if trouble == "raise":
            raise ZeroDivisionError("the stub was told to fail")
        if trouble == "exit":
            os._exit(7)
        if trouble == "hang":
            signal.pause()
        if trouble == "eat":
            hoard = np.ones(10**8)  # noqa: F841  0.8 GB
            signal.pause()
        if trouble.startswith("/") and os.path.exists(trouble):
            raise ZeroDivisionError(f"{trouble} exists")
        for step in (1, 2):
            if callback is not None:
                callback(Progress(step * budget // 2, budget, {"greedy_return": float(step), "loss": float("nan")}))
        return _network(variant, variant.n_agents, seed, float("nan") if trouble == "nan" else self.config.gain)


@dataclass(frozen=True)
class EagerConfig(maddpg.Config):
    """Settings with which a training takes seconds.

    Attributes:
        every: rounds between two checkpoints.
    """

    hidden: int = 8
    worlds: int = 4
    batch_size: int = 16
    warmup: int = 100
    every: int = 10


class _Often:
    """A checkpoint that is kept more often than its own rule allows."""

    def __init__(self, checkpoint: Keeper, every: int) -> None:
        self.load, self.save, self._every, self._rounds = checkpoint.load, checkpoint.save, every, 0

    def due(self, size: int) -> bool:
        self._rounds += 1
        return self._rounds % self._every == 0


class EagerDefender(maddpg.MADDPG):
    """A real training, with many checkpoints."""

    Config = EagerConfig

    def train(self, variant: VariantSpec, *, checkpoint: Keeper | None = None, **options: Any) -> NetworkPolicy:
        often = None if checkpoint is None else _Often(checkpoint, self.config.every)  # type: ignore[attr-defined]
        return super().train(variant, checkpoint=often, **options)


class StubAttacker:
    """Random weights that depend on the seed and on phi."""

    def attack(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        *,
        seed: int,
        budget: int,
        callback: Callback | None = None,
    ) -> Policy:
        if callback is not None:
            callback(Progress(budget, budget, {"attacked_return": -1.0}))
        return _network(variant, phi.weight, seed + 7 * phi.adversaries[0], 1.0)


class SecondAttacker(StubAttacker):
    """Other weights than the first."""

    def attack(self, variant: VariantSpec, victim: Policy, phi: Partition, *, seed: int, **rest: Any) -> Policy:
        return super().attack(variant, victim, phi, seed=seed + 100_000, **rest)


class StubWhiteBox:
    """Plays -3/4 against teams that are networks, and knows nothing of any other."""

    def attack(self, variant: VariantSpec, victim: Policy, phi: Partition, **rest: Any) -> Policy:
        if not isinstance(victim, NetworkPolicy):
            raise NotApplicableError("the team has no network to look into.")
        return ConstantPolicy(-0.75)


DEFENDER, ATTACKER = "evaluation_stubs:StubDefender", "evaluation_stubs:StubAttacker"
EAGER = "evaluation_stubs:EagerDefender"
SECOND_ATTACKER, WHITE_BOX = "evaluation_stubs:SecondAttacker", "evaluation_stubs:StubWhiteBox"
PROTOCOL = Protocol("stub-v1", trained=(ATTACKER,), sampled_partitions=5)
SUITE = Protocol(
    "stub-suite",
    trained=(ATTACKER, SECOND_ATTACKER),
    sampled_partitions=5,
    white_box=(WHITE_BOX,),
    transfer=True,
    headline="worst",
)
BUDGET = Budget("stub", 10, 10, 1, 2, 4, None, True)


def draw(history: Any, phi: np.ndarray, variant: Any) -> np.ndarray:
    """Return a picture of nothing."""
    return np.zeros((16, 16, 3), np.uint8)

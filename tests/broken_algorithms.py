"""Defenders and attackers with one promise broken at a time, to see that the checks notice."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from mir2bench.engines.base import Worlds
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Progress
from mir2bench.policies import RandomPolicy
from mir2bench.registration import VariantSpec


@dataclass(frozen=True)
class Config:
    """What is broken.

    Attributes:
        breach: its name.
    """

    breach: str = ""


class Stub:
    """Plays at random for the budget and returns a network with random weights, unless it does what `breach` says."""

    Config: ClassVar[type] = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config

    def make(self, variant: VariantSpec, n_agents: int, seed: int, budget: int, callback: Any) -> Any:
        breach = self.config.breach
        if breach == "raises":
            raise ValueError("too small\na budget.")
        if breach == "numpy":
            np.random.random()
        if breach == "python":
            random.random()
        if breach == "threads":
            torch.set_num_threads(torch.get_num_threads() + 1)
        if breach == "ignores the seed":
            seed = 0
        if breach == "unseeded":
            seed = int(np.random.default_rng().integers(2**31))
        if breach == "reports matter" and callback is not None:
            seed += 1
        self.play(variant, 2 * budget if breach == "overrun" else budget)
        if callback is not None and breach != "no reports":
            for progress in self.reports(budget):
                callback(progress)
        layout = variant.layout
        shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 8, breach == "recurrent")
        with torch.random.fork_rng(devices=[], enabled=breach != "torch"):
            torch.manual_seed(seed)
            kind = Lossy if breach == "lossy" else NetworkPolicy
            policy = kind(Actor(shape), n_agents + (breach == "n_agents"), 0.1)
        if breach == "dtype":
            torch.set_default_dtype(torch.float64)
        if breach == "diverged":
            policy.actor.head.weight.data[:] = torch.nan
        if breach == "no policy":
            return None
        return Wrong(policy, breach) if breach.startswith("policy: ") else policy

    def play(self, variant: VariantSpec, steps: int) -> None:
        worlds, policy, rng = Worlds(variant, 10), RandomPolicy(variant.layout), np.random.default_rng(0)
        worlds.reset(seeds=list(range(10)))
        for _ in range(steps // 10):
            worlds.step(policy.act(worlds.engine.obs, None, worlds.engine.mask, rng=rng)[0])
            if worlds.done.any():
                worlds.reset(np.flatnonzero(worlds.done))

    def reports(self, budget: int) -> list[Any]:
        metrics: Any = {"greedy_return": np.float32(1.0)}
        return {
            "backward reports": [Progress(budget, budget, metrics), Progress(5, budget), Progress(budget, budget)],
            "reports without an end": [Progress(budget // 2, budget, metrics)],
            "reports of another budget": [Progress(budget, budget + 1, metrics)],
            "reports of another kind": [(budget, budget)],
            "metrics of another kind": [Progress(budget, budget, {"greedy_return": "high"})],  # type: ignore[dict-item]
            "no learning curve": [Progress(budget, budget)],
        }.get(self.config.breach, [Progress(1, budget, metrics), Progress(budget, budget, metrics)])


class StubDefender(Stub):
    """As a defender."""

    def train(self, variant: VariantSpec, *, seed: int, budget: int, callback: Any = None) -> Any:
        return self.make(variant, variant.n_agents, seed, budget, callback)


class StubAttacker(Stub):
    """As an attacker."""

    def attack(
        self, variant: VariantSpec, victim: Any, phi: Any, *, seed: int, budget: int, callback: Any = None
    ) -> Any:
        if self.config.breach == "weights":
            victim.actor.head.bias.data += 1.0
        if self.config.breach == "memory of the victim":
            victim.fives = 1.0
        n_agents = variant.n_agents if self.config.breach == "whole team" else phi.weight
        return self.make(variant, n_agents, seed, budget, callback)


class Lossy(NetworkPolicy):
    """Whose bundle does not hold all of it."""

    def act(self, *args: Any, **kwargs: Any) -> Any:
        actions, carry = super().act(*args, **kwargs)
        return (actions + 1) % 2 if self.actor.shape.discrete else -actions, carry


class Wrong:
    """A policy in which one thing is wrong; see the names."""

    def __init__(self, policy: NetworkPolicy, breach: str) -> None:
        self.policy = policy
        self.breach = breach.removeprefix("policy: ")
        self.count = 0.0
        self.rng = np.random.default_rng(0)

    def initial_carry(self, batch: int) -> Any:
        if self.breach == "memory in itself":
            self.count = 0.0
        if self.breach == "rows":
            return np.zeros((batch + 1, 2))
        return np.zeros((batch, 2)) if self.breach in ("carry", "writes into the carry") else None

    def act(self, obs: Any, carry: Any, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        breach, discrete = self.breach, self.policy.actor.shape.discrete
        actions, _ = self.policy.act(obs, None, mask, rng=rng, deterministic=deterministic)
        if breach == "raises":
            raise IndexError("list index out of range")
        if breach == "alone":
            return actions
        if breach == "writes":
            obs[:] = 0.0
        if breach == "writes into the carry":
            carry += 1.0
        if breach == "carry":
            carry = carry[:, :1]
        if breach == "shape":
            actions = actions[:, :1]
        if breach == "type":
            actions = actions.astype(np.int32 if discrete else np.float64)
        if breach == "range":
            actions = actions + 2
        if breach == "nan":
            actions = actions * np.float32(np.nan)
        if breach == "mask" and deterministic is False:
            actions = np.full_like(actions, 2)
        if breach == "own dice":
            actions = self.twist(actions, self.rng.integers(2, size=actions.shape))
        if breach == "greedy dice":
            actions = self.twist(actions, rng.integers(2, size=actions.shape))
        if breach == "memory in itself":
            self.count = 0.5 * self.count + float(obs[0, 0, 0])
            actions = self.twist(actions, int(1000 * self.count) % 2)
        if breach == "batch":
            actions = self.twist(actions, int(1000 * obs[:, :, 0].sum()) % 2)
        if breach == "telepathy":
            actions = self.twist(actions, (1000 * obs[:, :, 0].sum(axis=1)).astype(int)[:, None] % 2)
        return actions, carry

    def twist(self, actions: np.ndarray, bits: Any) -> np.ndarray:
        """Choose among the two actions that are always legal in the toy world; of continuous ones, change the sign."""
        if self.policy.actor.shape.discrete:
            return np.broadcast_to(bits, actions.shape).astype(np.int64)
        return (actions * (2 * np.asarray(bits).reshape(np.shape(bits) + (1,) * (3 - np.ndim(bits))) - 1)).astype(
            np.float32
        )

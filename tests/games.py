"""Games so small that the best play is known, for the tests of learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.registration import Anchor, VariantSpec


class Game:
    """What the games share. A game says how an episode starts, what a step does and what agents see.

    Each agent's observation is the game's own numbers followed by its one-hot id; the state is what `reveal` tells, all
    agents' own numbers unless a game hides something.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {}
    scripted_traitors: ClassVar[Mapping[str, str]] = {}
    drawing: ClassVar[str] = "toy:draw"
    seen: ClassVar[tuple[str, ...]] = ("x",)
    moves: ClassVar[tuple[str, ...]] = ("a",)
    discrete: ClassVar[bool] = False

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        own = len(self.seen)
        self.obs = np.zeros((batch, n_agents, own + n_agents), dtype=np.float32)
        self.obs[:, :, own:] = np.eye(n_agents)
        self.state = np.zeros((batch, n_agents * own), dtype=np.float32)
        self.mask: np.ndarray | None = None
        self.reward = np.zeros(batch)
        self.channels = {"team": self.reward}
        self.terminated = np.zeros(batch, dtype=bool)
        self.clock = np.zeros(batch, dtype=np.int64)

    @classmethod
    @cache
    def layout(cls, n_agents: int) -> Layout:
        return Layout(
            n_agents=n_agents,
            observation_fields=(*cls.seen, *(f"id_{i}" for i in range(n_agents))),
            state_fields=tuple(f"{name}_{i}" for i in range(n_agents) for name in cls.seen),
            action_dim=len(cls.moves),
            discrete=cls.discrete,
            action_fields=cls.moves,
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        for world, generator in zip(worlds, generators, strict=True):
            self.clock[world] = 0
            self.begin(world, generator)
        self._observe()

    def step(self, actions: np.ndarray) -> None:
        self.play(actions)
        self.clock += 1
        self._observe()

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        return {"obs": self.obs[world].copy()}

    def _observe(self) -> None:
        self.obs[:, :, : len(self.seen)] = self.look()
        self.state[:] = self.reveal().reshape(self.state.shape)

    def reveal(self) -> np.ndarray:
        return self.obs[:, :, : len(self.seen)]

    def begin(self, world: int, generator: np.random.Generator) -> None:
        raise NotImplementedError

    def play(self, actions: np.ndarray) -> None:
        raise NotImplementedError

    def look(self) -> np.ndarray:
        raise NotImplementedError


class Match(Game):
    """One step: agent i sees x_i, uniform in [-0.8, 0.8], and plays a_i; the team gets - mean_i (a_i - x_i)^2.

    The best return is 0, with a_i = x_i; the best that ignores the observation is -0.64 / 3 = -0.213.
    """

    scripted_traitors: ClassVar[Mapping[str, str]] = {"contrary": "games:Contrary"}

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        super().__init__(batch, n_agents, threads=threads)
        self.x = np.zeros((batch, n_agents))

    def begin(self, world: int, generator: np.random.Generator) -> None:
        self.x[world] = generator.uniform(-0.8, 0.8, self.x.shape[1])

    def play(self, actions: np.ndarray) -> None:
        self.reward[:] = -np.square(actions[..., 0] - self.x).mean(axis=1)
        self.terminated[:] = True

    def look(self) -> np.ndarray:
        return self.x[..., None]


class Recall(Game):
    """Three steps: each agent is shown its bit at the first; after two steps in which only "wait" is legal it must
    say the bit. The team gets the share of agents that are right: 1 with a memory, 0.5 without. The state keeps it.
    """

    seen: ClassVar[tuple[str, ...]] = ("bit", "now")
    moves: ClassVar[tuple[str, ...]] = ("wait", "zero", "one")
    discrete: ClassVar[bool] = True

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        super().__init__(batch, n_agents, threads=threads)
        self.mask = np.ones((batch, n_agents, 3), dtype=np.int8)
        self.bits = np.zeros((batch, n_agents), dtype=np.int64)

    def begin(self, world: int, generator: np.random.Generator) -> None:
        self.bits[world] = generator.integers(2, size=self.bits.shape[1])

    def play(self, actions: np.ndarray) -> None:
        last = self.clock == 2
        self.reward[:] = (actions == 1 + self.bits).mean(axis=1) * last
        self.terminated[:] = last

    def look(self) -> np.ndarray:
        assert self.mask is not None
        speak = self.clock[:, None] == 2
        self.mask[..., 0] = ~speak
        self.mask[..., 1:] = speak[..., None]
        shown = np.where(self.clock[:, None] == 0, 2.0 * self.bits - 1.0, 0.0)
        return np.stack([shown, np.broadcast_to(speak, shown.shape)], axis=-1)

    def reveal(self) -> np.ndarray:
        return np.stack([2.0 * self.bits - 1.0, self.obs[..., 1]], axis=-1)


class Echo(Game):
    """Six steps: everybody sees what everybody played last, and the team gets the share of agents that played 0."""

    moves: ClassVar[tuple[str, ...]] = tuple(f"say_{i}" for i in range(6))
    seen: ClassVar[tuple[str, ...]] = ("first", "second", "third")
    discrete: ClassVar[bool] = True

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        super().__init__(batch, n_agents, threads=threads)
        self.last = np.zeros((batch, n_agents), dtype=np.int64)

    def begin(self, world: int, generator: np.random.Generator) -> None:
        self.last[world] = 0

    def play(self, actions: np.ndarray) -> None:
        self.last[:] = actions
        self.reward[:] = (actions == 0).mean(axis=1)

    def look(self) -> np.ndarray:
        return np.repeat(self.last[:, None] / 5, self.last.shape[1], axis=1)


class Scripted:
    """A policy without memory, written down; a subclass gives `choose`."""

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout

    def initial_carry(self, batch: int) -> Any:
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: Any,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        return self.choose(obs), carry

    def choose(self, obs: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Contrary(Scripted):
    """The worst play of `Match`: as far from x as can be."""

    def choose(self, obs: np.ndarray) -> np.ndarray:
        return np.where(obs[..., :1] > 0, -1.0, 1.0).astype(np.float32)


class Matching(Scripted):
    """The best play of `Match`."""

    def choose(self, obs: np.ndarray) -> np.ndarray:
        return obs[..., :1].astype(np.float32)


class Brittle:
    """A team for `Echo` with a planted weakness: it plays 0, unless agent 0 says 5 twice in a row; from then on, and
    to the end of the episode, it plays 1. Its memory counts the fives, and stays at 2.
    """

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
        five = obs[:, 0, 0] > 0.99
        carry = np.where(carry >= 2, 2.0, np.where(five, carry + 1, 0.0))
        return np.repeat((carry >= 2).astype(np.int64)[:, None], obs.shape[1], axis=1), carry


def game(engine: type[Game], n_agents: int = 2, adversaries: int = 1) -> VariantSpec:
    """Return the spec of a game; nothing is registered. The whole score range is 1 per step."""
    horizon = {"Match": 1, "Recall": 3, "Echo": 6}[engine.__name__]
    ceiling = {"Match": 0.0, "Recall": 3.0, "Echo": 6.0}[engine.__name__]
    return VariantSpec(
        id=f"mir2bench/{engine.__name__}{n_agents}-adv{adversaries}-v0",
        family="Games",
        n_agents=n_agents,
        n_adversaries=adversaries,
        horizon=horizon,
        engine=f"games:{engine.__name__}",
        floor=Anchor(ceiling - horizon, "lowest per step"),
        ceiling=Anchor(ceiling, "highest per step"),
        history=("v0: first release.",),
    )

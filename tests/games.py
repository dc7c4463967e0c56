"""Games so small that the best play is known, for the tests of learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.registration import Anchor, VariantSpec
from mir2bench.testing.games import Brittle, Echo, Game

__all__ = ["Brittle", "Contrary", "Echo", "Game", "Match", "Matching", "Recall", "Scripted", "Tandem", "Trust", "game"]


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


class Trust(Game):
    """One step, nothing to see. Two agents hunt, gather or sabotage, and the team gets what `PAYS` says:

    Both hunting pays most, but a saboteur beside a hunter takes everything; who gathers is never left with less than
    0.3. So the best joint action is to hunt, and the best if one of both does its worst is to gather.
    """

    PAYS: ClassVar[np.ndarray] = np.array([[1.0, 0.5, 0.0], [0.5, 0.4, 0.3], [0.0, 0.3, 0.0]])
    moves: ClassVar[tuple[str, ...]] = ("hunt", "gather", "sabotage")
    discrete: ClassVar[bool] = True

    def begin(self, world: int, generator: np.random.Generator) -> None:
        pass

    def play(self, actions: np.ndarray) -> None:
        self.reward[:] = self.PAYS[actions[:, 0], actions[:, 1]]
        self.terminated[:] = True

    def look(self) -> np.ndarray:
        return np.zeros((*self.obs.shape[:2], 1))


class Tandem(Game):
    """One step, nothing to see: going far pays for an agent only if the other goes along. The team gets

        0.3 (a_1 + a_2) + 0.5 a_1 a_2 - 0.5 (a_1^2 + a_2^2).

    The best joint action is 0.6 for both: an agent does best with 0.3 + 0.5 times what the other plays. Who expects the
    other to miss by epsilon, on the side where both are already, comes to rest at 0.6 - epsilon or at 0.6 + epsilon,
    and who expects it to play -1 does best with -0.2.
    """

    def begin(self, world: int, generator: np.random.Generator) -> None:
        pass

    def play(self, actions: np.ndarray) -> None:
        one, other = actions[:, 0, 0], actions[:, 1, 0]
        self.reward[:] = 0.3 * (one + other) + 0.5 * one * other - 0.5 * (one**2 + other**2)
        self.terminated[:] = True

    def look(self) -> np.ndarray:
        return np.zeros((*self.obs.shape[:2], 1))


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


def game(engine: type[Game], n_agents: int = 2, adversaries: int = 1) -> VariantSpec:
    """Return the spec of a game; nothing is registered. The whole score range is 1 per step."""
    horizon = {"Match": 1, "Recall": 3, "Echo": 6, "Trust": 1, "Tandem": 1}[engine.__name__]
    ceiling = {"Match": 0.0, "Recall": 3.0, "Echo": 6.0, "Trust": 1.0, "Tandem": 1.0}[engine.__name__]
    return VariantSpec(
        id=f"mir2bench/{engine.__name__}{n_agents}-adv{adversaries}-v0",
        family="Games",
        n_agents=n_agents,
        n_adversaries=adversaries,
        horizon=horizon,
        engine=f"{engine.__module__}:{engine.__name__}",
        floor=Anchor(ceiling - horizon, "lowest per step"),
        ceiling=Anchor(ceiling, "highest per step"),
        history=("v0: first release.",),
    )

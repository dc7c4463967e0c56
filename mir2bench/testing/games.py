"""Games so small that the best play is known, and teams with a planted weakness: the unit test of every attacker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.partition import Partition
from mir2bench.policies import Carry, Policy
from mir2bench.registration import Anchor, VariantSpec


class Game:
    """What the games share. A game says how an episode starts, what a step does and what agents see.

    Each agent's observation is the game's own numbers followed by its one-hot id; the state is what `reveal` tells, all
    agents' own numbers unless a game hides something. Where some action may be illegal, the game sets the mask.

    Attributes:
        seen: names of the numbers that each agent sees.
        moves: names of the actions, or of an action's components.
        discrete: which of both.
        clock: (B,) int64, steps played.
    """

    scripted_teams: ClassVar[Mapping[str, str]] = {}
    scripted_traitors: ClassVar[Mapping[str, str]] = {}
    drawing: ClassVar[str] = "mir2bench.testing.games:draw"
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
        """See `Engine.layout`."""
        return Layout(
            n_agents=n_agents,
            observation_fields=(*cls.seen, *(f"id_{i}" for i in range(n_agents))),
            state_fields=tuple(f"{name}_{i}" for i in range(n_agents) for name in cls.seen),
            action_dim=len(cls.moves),
            discrete=cls.discrete,
            action_fields=cls.moves,
        )

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """See `Engine.reset`; starts cannot be set."""
        for world, generator in zip(worlds, generators, strict=True):
            self.clock[world] = 0
            self.begin(world, generator)
        self._observe()

    def step(self, actions: np.ndarray) -> None:
        """See `Engine.step`."""
        self.play(actions)
        self.clock += 1
        self._observe()

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return what the agents see, (N, O)."""
        return {"obs": self.obs[world].copy()}

    def _observe(self) -> None:
        self.obs[:, :, : len(self.seen)] = self.look()
        self.state[:] = self.reveal().reshape(self.state.shape)

    def reveal(self) -> np.ndarray:
        """Return the state, (B, S) in any shape of that size."""
        return self.obs[:, :, : len(self.seen)]

    def begin(self, world: int, generator: np.random.Generator) -> None:
        """Draw the start of one world."""
        raise NotImplementedError

    def play(self, actions: np.ndarray) -> None:
        """Set `reward` and `terminated`; `clock` still counts the steps before this one."""
        raise NotImplementedError

    def look(self) -> np.ndarray:
        """Return the game's own numbers, (B, N, len(seen)), and set the mask if there is one."""
        raise NotImplementedError


class Echo(Game):
    """Six steps: everybody sees what everybody played last, and the team gets the share of agents that played 0."""

    seen: ClassVar[tuple[str, ...]] = ("first", "second", "third")
    moves: ClassVar[tuple[str, ...]] = tuple(f"say_{i}" for i in range(6))
    discrete: ClassVar[bool] = True

    def __init__(self, batch: int, n_agents: int, *, threads: int | None = None) -> None:
        super().__init__(batch, n_agents, threads=threads)
        self.mask = np.ones((batch, n_agents, len(self.moves)), np.int8) if self.discrete else None
        self.last = np.zeros((batch, n_agents))

    def begin(self, world: int, generator: np.random.Generator) -> None:
        """Let everybody have played 0."""
        self.last[world] = 0.0

    def play(self, actions: np.ndarray) -> None:
        """Pay for the zeros."""
        self.last[:] = actions / 5
        self.reward[:] = (actions == 0).mean(axis=1)

    def look(self) -> np.ndarray:
        """Show a fifth of the last actions."""
        return np.repeat(self.last[:, None], self.last.shape[1], axis=1)


class Hum(Echo):
    """`Echo` with continuous actions: the team gets the share of agents that played within 0.1 of 0."""

    moves: ClassVar[tuple[str, ...]] = ("tone",)
    discrete: ClassVar[bool] = False

    def play(self, actions: np.ndarray) -> None:
        """Pay for the zeros."""
        self.last[:] = actions[..., 0]
        self.reward[:] = (np.abs(self.last) <= 0.1).mean(axis=1)

    def look(self) -> np.ndarray:
        """Show the last actions."""
        return np.repeat(self.last[:, None], self.last.shape[1], axis=1)


class Brittle:
    """A team for `Echo` with a planted weakness: it plays 0, unless agent 0 says 5 twice in a row; from then on, and
    to the end of the episode, it plays 1. Its memory counts the fives, and stays at 2.
    """

    def initial_carry(self, batch: int) -> Carry:
        """Return zeros (B,)."""
        return np.zeros(batch)

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`."""
        carry = np.where(carry >= 2, 2.0, np.where(self.provoked(obs[:, 0, 0]), carry + 1, 0.0))
        return np.repeat((carry >= 2).astype(np.int64)[:, None], obs.shape[1], axis=1), carry

    def provoked(self, heard: np.ndarray) -> np.ndarray:
        """Whether agent 0 was heard to say 5, (B,)."""
        return heard > 0.99


class BrittleHum(Brittle):
    """The same for `Hum`: the trigger is a tone from 0.3 to 0.7 twice in a row."""

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`."""
        actions, carry = super().act(obs, carry, mask, rng=rng, deterministic=deterministic)
        return actions[..., None].astype(np.float32), carry

    def provoked(self, heard: np.ndarray) -> np.ndarray:
        """Whether agent 0 hit the tone, (B,)."""
        return (heard >= 0.3) & (heard <= 0.7)


@dataclass(frozen=True, slots=True)
class Planted:
    """A weakness that an attacker must find.

    Attributes:
        variant: the game; it is not registered.
        victim: the team.
        phi: agent 0 is adversarial, who alone can pull the trigger.
        quiet: the team's return under an adversary that does its worst but never pulls it.
        worst: its return if it is pulled at once.
        trigger: what pulls it, for error messages.
    """

    variant: VariantSpec
    victim: Policy
    phi: Partition
    quiet: float
    worst: float
    trigger: str


def planted(discrete: bool) -> Planted:
    """Return the planted weakness for attackers of discrete or of continuous worlds.

    Three agents play six steps. Without the trigger the adversary costs its own share, 2 of 6. Pulled at once, it
    leaves two steps of play by two agents, 4/3.
    """
    engine, victim = (Echo, Brittle()) if discrete else (Hum, BrittleHum())
    variant = VariantSpec(
        id=f"mir2bench/{engine.__name__}3-adv1-v0",
        family="Games",
        n_agents=3,
        n_adversaries=1,
        horizon=6,
        engine=f"{engine.__module__}:{engine.__name__}",
        floor=Anchor(0.0, "nobody ever plays 0"),
        ceiling=Anchor(6.0, "all always play 0"),
        history=("v0: first release.",),
    )
    trigger = "action 5" if discrete else "an action from 0.3 to 0.7"
    return Planted(variant, victim, Partition((1, 0, 0)), 4.0, 4 / 3, f"{trigger}, twice in a row")


def draw(history: Sequence[Mapping[str, np.ndarray]], phi: np.ndarray, variant: VariantSpec) -> np.ndarray:
    """Draw a column per moment and a row per number that the agents see; brighter is more."""
    seen = np.stack([snapshot["obs"].ravel() for snapshot in history], axis=1)
    gray = np.interp(seen, (-1.0, 1.0), (0.0, 255.0)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)

"""What every engine offers, and `Worlds`, the batch of episodes that all views and all training run on."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random

from mir2bench.errors import (
    ActionError,
    ConfigError,
    MissingDependencyError,
    PartitionError,
    StateError,
    unknown_name,
)
from mir2bench.partition import Partition, sample_partition
from mir2bench.registration import VariantSpec, list_variants, spec


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes and names of what an engine reads and writes.

    Attributes:
        n_agents: N.
        observation_fields: O names; the last N are the one-hot agent id.
        state_fields: S names; no agent ids.
        action_dim: A; components of a continuous action, or the number of discrete actions.
        discrete: whether one action is an integer in [0, A) rather than A numbers in [-1, 1].
        action_fields: A names.
        obs_low, obs_high: O bounds of an observation, inclusive; () where there are none.
        actuators: for worlds whose agents move different things, what each agent's actions move, N tuples of at most A
            names; an agent's actions beyond its own do nothing. () for all others.
    """

    n_agents: int
    observation_fields: tuple[str, ...]
    state_fields: tuple[str, ...]
    action_dim: int
    discrete: bool
    action_fields: tuple[str, ...]
    obs_low: tuple[float, ...] = ()
    obs_high: tuple[float, ...] = ()
    actuators: tuple[tuple[str, ...], ...] = ()

    @property
    def obs_dim(self) -> int:
        """O."""
        return len(self.observation_fields)

    @property
    def state_dim(self) -> int:
        """S."""
        return len(self.state_fields)

    def action_shape(self, batch: int, n_agents: int | None = None) -> tuple[int, ...]:
        """Shape of a batch of joint actions: (B, N) for discrete worlds, else (B, N, A)."""
        joint = (batch, self.n_agents if n_agents is None else n_agents)
        return joint if self.discrete else (*joint, self.action_dim)


class Engine(Protocol):
    """The physics of one family for a batch of B worlds. It knows nothing of time limits, phi or Gymnasium.

    After `reset` and `step` the arrays below hold the result; the engine overwrites them in place.

    Attributes:
        obs: (B, N, O) float32, agent id one-hot at the end.
        state: (B, S) float32.
        mask: (B, N, A) int8, 1 for each legal action; None in worlds without masks.
        reward: (B,) float64, the team's reward of the last step.
        channels: further rewards and facts of the last step, name -> (B,) float64.
        terminated: (B,) bool, whether the last step ended the episode.
        interrupted: (B,) bool, whether the last step lost the episode to a crash of an outside program or to an
            unstable simulation, which counts as a truncation; `info` of all views reports it. None, or
            left out, where that cannot happen.
        scripted_teams: name -> "module:Class" of scripted team policies (sanity rows).
        planted: name of the scripted team with a planted weakness, the unit test of attackers: it plays well, but one
            adversary can cause a rare event after which it collapses. "", or left out, where a family has none.
        scripted_traitors: name -> "module:Class" of scripted worst behaviors.
        program: name and version of the outside program that plays, once it has started; "" until then, or left out
            where there is none. Results keep it.
        external: whether each world is a program outside this process, too costly to be made by the hundred. False, or
            left out, for all others.
        reached: function of phi (B, N) that tells in which worlds, (B,) bool, the team is where it wants to be now.
            Left out where there is no such thing.
        drawing: "module:function" that renders one world. The module may also offer `draw_trajectories`, see
            `views.common.DrawTrajectories`.
        peers: name -> "module:function" of other simulations of the same world, to compare speeds with: from the
            variant and B the function makes one that steps B worlds, or raises ImportError. Empty, or left out, where
            there are none.
    """

    obs: np.ndarray
    state: np.ndarray
    mask: np.ndarray | None
    reward: np.ndarray
    channels: Mapping[str, np.ndarray]
    terminated: np.ndarray
    interrupted: np.ndarray | None = None
    program: str = ""
    scripted_teams: ClassVar[Mapping[str, str]]
    planted: ClassVar[str] = ""
    scripted_traitors: ClassVar[Mapping[str, str]]
    external: ClassVar[bool] = False
    drawing: ClassVar[str]
    peers: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def layout(cls, n_agents: int, **engine_args: Any) -> Layout:
        """Return sizes and names without building a world."""
        ...

    def reset(self, worlds: Sequence[int], generators: Sequence[np.random.Generator], initial_state: Any) -> None:
        """Start new episodes in the given worlds and compute their observations.

        Args:
            worlds: indices into the batch.
            generators: one per entry of `worlds`; every random start is drawn from its own.
            initial_state: None for a random start, or the family's mapping of start values, used for all of `worlds`.
                The random start is drawn all the same, so that later draws do not depend on it.
        """
        ...

    def step(self, actions: np.ndarray) -> None:
        """Advance all B worlds by one step.

        Args:
            actions: (B, N, A) float64 or (B, N) int64, C-ordered and writable. No world that has ended is stepped.
        """
        ...

    def snapshot(self, world: int) -> dict[str, np.ndarray]:
        """Return a copy of one world's state, in the form that `initial_state` takes; also what drawing gets."""
        ...

    def close(self) -> None:
        """End what works for it outside this process; `reset` starts it anew. Left out where there is no such thing."""


class Worlds:
    """B episodes of one variant: its engine, and one generator, one clock and one phi per world.

    Args:
        variant: what to simulate.
        batch: B.
        threads: threads for the physics, 1 or more; None lets the engine choose.

    Raises:
        ConfigError: threads is something else.

    Attributes:
        engine: the physics with its arrays (`obs`, `state`, `mask`, `reward`, `channels`, `terminated`).
        started: (B,) bool, whether a world has an episode, running or ended: it was reset, and not closed since.
        truncated: (B,) bool, the time limit was reached, or the episode lost, by a world that did not terminate.
        elapsed: (B,) int64, steps since reset.
        phi: (B, N) int8.
        illegal_actions: (B,) int64, masked actions replaced since reset (only where `strict` is off).
        generators: one per world; None until that world is seeded or started.
    """

    def __init__(self, variant: VariantSpec, batch: int, *, threads: int | None = None, strict: bool = True) -> None:
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, but it is {batch}.")
        if threads is not None and (
            isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1
        ):
            raise ConfigError(f"threads must be an integer of 1 or more, or None, but it is {threads!r}.")
        self.variant = variant
        self.batch = batch
        self.strict = strict
        self.layout: Layout = variant.layout
        self.engine: Engine = variant.engine_class(batch, variant.n_agents, threads=threads, **variant.engine_args)
        self.started = np.zeros(batch, dtype=bool)
        self.truncated = np.zeros(batch, dtype=bool)
        self.elapsed = np.zeros(batch, dtype=np.int64)
        self.phi = np.zeros((batch, variant.n_agents), dtype=np.int8)
        self.illegal_actions = np.zeros(batch, dtype=np.int64)
        self.generators: list[np.random.Generator | None] = [None] * batch

    @property
    def done(self) -> np.ndarray:
        """(B,) bool: terminated or truncated."""
        return self.engine.terminated | self.truncated

    def reset(
        self,
        worlds: Sequence[int] | np.ndarray | None = None,
        *,
        seeds: Sequence[int | None] | None = None,
        phi: object = None,
        initial_state: Any = None,
    ) -> None:
        """Start new episodes.

        Args:
            worlds: indices of the worlds to reset; None for all.
            seeds: one per entry of `worlds`; None keeps that world's generator, which is seeded from the operating
                system if it has none yet. A seed gives the generator that Gymnasium gives for it.
            phi: one partition for all of `worlds`, or B of them, one for each world of the batch; None draws one from
                Phi^alpha with each world's generator. It is drawn after the start, and drawn even when given, so that a
                seed's starts do not depend on phi.
            initial_state: see `Engine.reset`.

        Raises:
            PartitionError, StateError: bad phi or start; nothing was changed then.
            GameError: an outside program does not start; these worlds have no episode then.
            gymnasium.error.Error: a seed is not an integer of 0 or more.
        """
        indices = list(range(self.batch)) if worlds is None else [int(w) for w in worlds]
        given = None if phi is None else self._parse_phi(phi)
        kept = [self.generators[world] for world in indices]
        new = [None] * len(indices) if seeds is None else seeds
        generators = [
            old if seed is None and old is not None else np_random(None if seed is None else operator.index(seed))[0]
            for old, seed in zip(kept, new, strict=True)
        ]
        try:
            self.engine.reset(indices, generators, initial_state)
        except StateError:
            raise
        except BaseException:  # a game that does not start, or a user who will not wait for it
            self.started[indices] = False
            raise
        self.started[indices] = True
        n, k = self.variant.n_agents, self.variant.n_adversaries
        for world, generator in zip(indices, generators, strict=True):
            drawn = sample_partition(n, k, generator)
            self.phi[world] = (drawn if given is None else given[world]).phi
            self.generators[world] = generator
        self.elapsed[indices] = 0
        self.illegal_actions[indices] = 0
        self.truncated[indices] = False
        self.engine.terminated[indices] = False
        interrupted = getattr(self.engine, "interrupted", None)
        if interrupted is not None:
            interrupted[indices] = False

    def _parse_phi(self, phi: object) -> list[Partition]:
        """Return one partition for each world of the batch."""
        n, k = self.variant.n_agents, self.variant.n_adversaries
        rows = phi.tolist() if isinstance(phi, np.ndarray) else phi
        per_world = isinstance(rows, list | tuple) and any(
            isinstance(r, Partition | list | tuple | np.ndarray) for r in rows
        )
        if not isinstance(rows, list | tuple) or not per_world:
            return [Partition.parse(phi, n, k)] * self.batch
        if len(rows) != self.batch:
            raise PartitionError(
                f"phi has {len(rows)} rows, but there are {self.batch} worlds. Give one row for each, or one for all."
            )
        return [Partition.parse(row, n, k) for row in rows]

    def step(self, actions: np.ndarray) -> None:
        """Check the joint actions and advance every world by one step.

        Args:
            actions: (B, N, A) in [-1, 1], or (B, N) integers in [0, A).

        Raises:
            ResetNeeded: a world was never reset, or closed.
            ActionError: wrong shape, not finite, out of range, or masked in strict mode; nothing was changed then.
        """
        if not self.started.all():
            raise ResetNeeded(f"{self.variant.id}: no episode is running. Call reset() first.")
        actions = self.check_actions(actions)
        self.engine.step(actions)
        self.elapsed += 1
        np.greater_equal(self.elapsed, self.variant.horizon, out=self.truncated)
        interrupted = getattr(self.engine, "interrupted", None)
        if interrupted is not None:
            self.truncated |= interrupted
        self.truncated &= ~self.engine.terminated

    def close(self) -> None:
        """End all episodes, and what works for the engine outside this process; a reset starts both anew."""
        self.started[:] = False
        close = getattr(self.engine, "close", None)
        if close is not None:
            close()

    def check_actions(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions to execute, or raise `ActionError`; see `step`."""
        actions = np.asarray(actions)
        expected = self.layout.action_shape(self.batch)
        if actions.shape != expected:
            raise ActionError(
                f"joint actions have shape {actions.shape}, but {self.variant.id} expects {expected}: "
                f"(worlds, agents{'' if self.layout.discrete else ', components'})."
            )
        if self.layout.discrete:
            return self._check_discrete(actions)
        if actions.dtype.kind not in "fiu":
            raise ActionError(f"actions must be numbers in [-1, 1], but their dtype is {actions.dtype}.")
        # Always the same kind of array, so that compiled engines compile once.
        actions = np.array(actions, dtype=np.float64, order="C")
        # One pass that is false for NaN, infinities and out-of-range values alike.
        if not (np.abs(actions) <= 1.0).all():
            _explain_bad_box(actions, self.variant.id)
        return actions

    def _check_discrete(self, actions: np.ndarray) -> np.ndarray:
        if actions.dtype.kind not in "iu":
            raise ActionError(f"discrete actions must be integers, but their dtype is {actions.dtype}.")
        actions = np.array(actions, dtype=np.int64, order="C")
        bad = (actions < 0) | (actions >= self.layout.action_dim)
        if bad.any():
            world, agent = np.argwhere(bad)[0]
            raise ActionError(
                f"agent {agent} of world {world} chose action {actions[world, agent]}, but actions of "
                f"{self.variant.id} run from 0 to {self.layout.action_dim - 1}."
            )
        mask = self.engine.mask
        if mask is None:
            return actions
        legal = np.take_along_axis(mask, actions[..., None], axis=-1)[..., 0] > 0
        if legal.all():
            return actions
        if self.strict:
            world, agent = np.argwhere(~legal)[0]
            raise ActionError(
                f"agent {agent} of world {world} chose action {actions[world, agent]}, which is not legal now: its "
                f"mask is {mask[world, agent].tolist()}. Choose among the ones, or make the environment with "
                "strict=False to have illegal actions replaced."
            )
        self.illegal_actions += (~legal).sum(axis=1)
        # Illegal actions become the first legal one: no-op for the dead, stop for the living.
        return np.where(legal, actions, mask.argmax(axis=-1))


def check_attack_reward(variant: VariantSpec, engine: Engine) -> None:
    """Raise unless the engine reports what attackers of the variant minimize.

    Raises:
        UnknownNameError: the world has no such reward channel as the variant's `attack_reward`.
    """
    if variant.attack_reward not in engine.channels:
        raise unknown_name("reward channel", variant.attack_reward, engine.channels)


def ready_variants(adversaries: int | None = None) -> list[str]:
    """Return the ids of the variants that can be made here by the hundred.

    Their packages are installed, and their worlds are no programs outside this process.

    Args:
        adversaries: only variants with exactly this K.
    """
    ids = []
    for name in list_variants(adversaries=adversaries):
        variant = spec(name)
        try:
            if not getattr(variant.engine_class, "external", False):
                Worlds(variant, 1, threads=1)
                ids.append(name)
        except MissingDependencyError:
            continue
    return ids


def _explain_bad_box(actions: np.ndarray, variant: str) -> None:
    bad = np.argwhere(~(np.abs(actions) <= 1.0))
    shown = "; ".join(f"world {w}, agent {a}, component {c}: {actions[w, a, c]}" for w, a, c in bad[:5].tolist())
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise ActionError(f"actions of {variant} must be finite and in [-1, 1], but {shown}{more}. Clip them first.")

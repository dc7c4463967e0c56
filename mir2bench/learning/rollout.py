"""Playing evaluation episodes: one cell (a team, a partition, an adversary) as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mir2bench.engines.base import Layout, Worlds
from mir2bench.errors import ActionError, PolicyError
from mir2bench.learning.threads import one_torch_thread
from mir2bench.partition import Partition, perturb
from mir2bench.policies import Carry, Policy
from mir2bench.registration import VariantSpec

_TEAM_STREAM, _ADVERSARY_STREAM = 1, 2  # their own generators: the adversary's draws never shift the team's


@dataclass(frozen=True, slots=True)
class Episodes:
    """What E evaluation episodes gave.

    Attributes:
        returns: (E,) float64, undiscounted sum of the team's reward.
        lengths: (E,) int64, steps.
        won: (E,) bool, or None in families without a `won` channel.
        lost: how many episodes a crash or an unstable simulation cut short.
        program: name and version of the outside program that played, or "".
    """

    returns: np.ndarray
    lengths: np.ndarray
    won: np.ndarray | None
    lost: int = 0
    program: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """What an adversary that knows everything is told before it acts: copies of B worlds' arrays.

    Attributes:
        layout: sizes.
        state: (B, S).
        obs: (B, N, O).
        mask: (B, N, A) or None.
        actions: (B, N, A) or (B, N), what the team is about to play.
        phi: (B, N) int8.
    """

    layout: Layout
    state: np.ndarray
    obs: np.ndarray
    mask: np.ndarray | None
    actions: np.ndarray
    phi: np.ndarray


@runtime_checkable
class Knowing(Protocol):
    """An adversary that is told everything: `act_knowing` is called in place of `act`, after the team has acted."""

    def act_knowing(self, moment: Moment, carry: Carry, *, rng: np.random.Generator) -> tuple[np.ndarray, Carry]:
        """Return the adversaries' actions, (B, K, A) or (B, K), and the new carry."""
        ...


@one_torch_thread()
def rollout(
    variant: VariantSpec,
    team: Policy,
    phi: Partition,
    adversary: Policy | None,
    seeds: Sequence[int],
    *,
    team_name: str = "the team",
    adversary_name: str = "the adversary",
    watch: Callable[[Worlds], None] | None = None,
) -> Episodes:
    """Play one episode per seed, all as one batch, greedy on both sides.

    A seed's start does not depend on phi, so cells are paired episode by episode with the clean arm.

    Args:
        variant: the world.
        team: policy of all N agents; what it chooses for adversaries is discarded.
        phi: who is adversarial.
        adversary: policy of the K adversaries; None if and only if phi is the plain 0.
        seeds: one per episode.
        team_name: how error messages call the team.
        adversary_name: how they call the adversary.
        watch: called at the start and after every step, for drawing.

    Raises:
        PolicyError: a policy returned actions of a wrong shape, not finite, out of range or illegal.
    """
    if (adversary is None) != (phi.weight == 0):
        raise ValueError(f"phi names {phi.weight} adversaries, but the adversary is {adversary!r}.")
    with closing(Worlds(variant, len(seeds), threads=1, strict=True)) as worlds:
        worlds.reset(seeds=seeds, phi=phi)
        return _play(worlds, phi, (team, team_name), (adversary, adversary_name), watch)


def _play(
    worlds: Worlds,
    phi: Partition,
    one: tuple[Policy, str],
    other: tuple[Policy | None, str],
    watch: Callable[[Worlds], None] | None,
) -> Episodes:
    """Play the episodes that have begun; `one` is the team and its name, `other` the adversary and its name."""
    (team, team_name), (adversary, adversary_name) = one, other
    batch = worlds.batch
    if watch is not None:
        watch(worlds)
    engine, layout = worlds.engine, worlds.layout
    index = list(phi.adversaries)
    carry, adversary_carry = team.initial_carry(batch), None
    if adversary is not None:
        adversary_carry = adversary.initial_carry(batch)
    team_rng = np.random.default_rng(_TEAM_STREAM)
    adversary_rng = np.random.default_rng(_ADVERSARY_STREAM)
    returns = np.zeros(batch)
    lengths = np.zeros(batch, dtype=np.int64)
    won = np.zeros(batch, dtype=bool) if "won" in engine.channels else None
    active, lost = np.ones(batch, dtype=bool), 0
    while True:
        # Copies, since the engine overwrites its arrays and a policy may keep what it was given.
        obs, mask = engine.obs.copy(), None if engine.mask is None else engine.mask.copy()
        with _naming(team_name):
            actions, carry = team.act(obs, carry, mask, rng=team_rng, deterministic=True)
        actions = check_actions(actions, layout, batch, layout.n_agents, team_name)
        if adversary is not None:
            with _naming(adversary_name):
                if isinstance(adversary, Knowing):
                    told = Moment(layout, engine.state.copy(), obs, mask, actions.copy(), worlds.phi.copy())
                    chosen, adversary_carry = adversary.act_knowing(told, adversary_carry, rng=adversary_rng)
                else:
                    chosen, adversary_carry = adversary.act(
                        obs[:, index],
                        adversary_carry,
                        None if mask is None else mask[:, index],
                        rng=adversary_rng,
                        deterministic=True,
                    )
            actions = perturb(actions, check_actions(chosen, layout, batch, len(index), adversary_name), phi)
        try:
            worlds.step(actions)
        except ActionError as error:
            raise PolicyError(
                f"{team_name} or {adversary_name} chose an action that cannot be played: {error}"
            ) from error
        if watch is not None:
            watch(worlds)
        returns[active] += engine.reward[active]
        lengths[active] += 1
        ended = worlds.done & active
        if won is not None:
            won[ended] = engine.channels["won"][ended] > 0
        if (interrupted := getattr(engine, "interrupted", None)) is not None:
            lost += int(interrupted[ended].sum())
        active &= ~ended
        if not active.any():
            return Episodes(returns, lengths, won, lost, getattr(engine, "program", ""))
        # Only first episodes count, but no engine need step a world that has ended.
        over = np.flatnonzero(worlds.done)
        if over.size:
            worlds.reset(over, phi=phi)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let errors of a policy say whose it is."""
    try:
        yield
    except PolicyError as error:
        raise type(error)(f"{name}: {error}") from error


def check_actions(actions: Any, layout: Layout, batch: int, n_agents: int, name: str) -> np.ndarray:
    """Return the actions as an array, or say whose they are and what is wrong."""
    actions = np.asarray(actions)
    expected = layout.action_shape(batch, n_agents)
    if actions.shape != expected:
        raise PolicyError(
            f"{name} returned actions of shape {actions.shape}, but {expected} was expected: "
            f"(episodes, agents{'' if layout.discrete else ', components'})."
        )
    if actions.dtype.kind not in ("iu" if layout.discrete else "fiu"):
        kind = f"integers from 0 to {layout.action_dim - 1}" if layout.discrete else "numbers in [-1, 1]"
        raise PolicyError(f"{name} returned actions of dtype {actions.dtype}, but they must be {kind}.")
    if not np.isfinite(actions).all():
        episode, agent = np.argwhere(~np.isfinite(actions))[0][:2]
        raise PolicyError(
            f"{name} returned {actions[episode, agent]} for agent number {agent} of its {n_agents} in episode "
            f"{episode}: actions must be finite. Its weights have probably diverged."
        )
    low, high = (0, layout.action_dim - 1) if layout.discrete else (-1, 1)
    outside = (actions < low) | (actions > high)
    if outside.any():
        episode, agent = np.argwhere(outside)[0][:2]
        raise PolicyError(
            f"{name} returned {actions[episode, agent]} for agent number {agent} of its {n_agents} in episode "
            f"{episode}, but actions here run from {low} to {high}. Was it trained for another variant?"
        )
    return actions

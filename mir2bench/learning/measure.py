"""Play episodes with fixed policies and add up the team's reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mir2bench.engines.base import Worlds
from mir2bench.partition import Partition, perturb
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

EVALUATION_SEED = 1_000_000
"""First of the seeds that episodes are measured on; training draws its own from 63-bit space."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """What B measured episodes gave.

    Attributes:
        returns: (B,) float64, raw team returns.
        lengths: (B,) int64, steps.
        channels: name -> (B,) float64, the sum of every reward channel of the engine.
    """

    returns: np.ndarray
    lengths: np.ndarray
    channels: dict[str, np.ndarray]


def play(
    variant: VariantSpec,
    team: Policy,
    *,
    seeds: Sequence[int],
    rng: np.random.Generator,
    adversary: Policy | None = None,
    phi: Partition | None = None,
    deterministic: bool = True,
) -> Episodes:
    """Play one episode per seed, all at once, strictly: an illegal action of a policy raises.

    Args:
        variant: the world.
        team: plays all N agents; where phi^i = 1 its actions are discarded.
        seeds: each determines one start.
        rng: for policies that draw.
        adversary: plays the K adversaries of `phi`.
        phi: who they are; None for the clean team.
        deterministic: greedy actions.
    """
    batch = len(seeds)
    worlds = Worlds(variant, batch, strict=True)
    clean = Partition.of(variant.n_agents)
    worlds.reset(seeds=seeds, phi=phi or clean)
    engine = worlds.engine
    carry = team.initial_carry(batch)
    index = list(phi.adversaries) if phi and adversary is not None else []
    other_carry = adversary.initial_carry(batch) if adversary is not None else None
    alive = np.ones(batch, bool)
    lengths = np.zeros(batch, np.int64)
    sums = {name: np.zeros(batch) for name in engine.channels}
    returns = np.zeros(batch)
    while alive.any():
        actions, carry = team.act(engine.obs, carry, engine.mask, rng=rng, deterministic=deterministic)
        if phi is not None and adversary is not None and index:
            mask = None if engine.mask is None else engine.mask[:, index]
            hostile, other_carry = adversary.act(
                engine.obs[:, index], other_carry, mask, rng=rng, deterministic=deterministic
            )
            actions = perturb(actions, hostile, phi)
        worlds.step(actions)
        returns += np.where(alive, engine.reward, 0.0)
        lengths += alive
        for name, total in sums.items():
            total += np.where(alive, engine.channels[name], 0.0)
        alive &= ~worlds.done
        ended = np.flatnonzero(worlds.done)
        if alive.any() and ended.size:  # an ended world plays on, unrecorded, until the last one is done
            worlds.reset(ended, phi=phi or clean)
    return Episodes(returns, lengths, sums)

"""Does an attacker keep every promise that mir2bench makes about attackers, and does it find a planted weakness?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mir2bench.attackers import fixed_attackers, make_attacker
from mir2bench.defenders.maddpg import MADDPG
from mir2bench.errors import ConfigError
from mir2bench.learning.rollout import Knowing, rollout
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec
from mir2bench.testing import common
from mir2bench.testing.games import Planted
from mir2bench.testing.games import planted as planted_weakness
from mir2bench.testing.policies import BATCH, Recording, alike, policy_problems, record, replay, saving_problems

_VICTIM_STEPS = 64
_EPISODES = 64


def check_attacker(
    attacker: str | type,
    variant: str | VariantSpec = "Rendezvous10-adv1-v0",
    *,
    settings: Mapping[str, Any] | None = None,
    victim: Policy | None = None,
    phi: object = None,
    seed: int = 0,
    budget: int = 1_000,
    planted: bool = True,
    planted_budget: int = 300_000,
) -> None:
    """Attack a team twice for a moment and a planted weakness once in earnest, and tell all that is wrong in one error.

    Checked are the class and its `Config`; that the attack keeps to its budget, reports its progress, leaves the victim
    and global state alone and is determined by its seed; that the policy plays the adversaries of phi, keeps the
    protocol and comes back from a bundle as it was; and that the attacker finds the trigger of a team which behaves
    well until one adversary does a rare thing twice in a row (see `testing.games`).

    Args:
        attacker: the class, its name, or "package.module:Class".
        variant: the world; it must have adversaries. A spec that is given whole is registered.
        settings: fields of its `Config` that differ from the defaults.
        victim: the team to attack; by default one that MADDPG trained for a moment.
        phi: who is adversarial; by default the last agents.
        seed: seed of the attacks.
        budget: environment steps of each of the two short attacks.
        planted: whether to look for the planted weakness, in a game with actions of the variant's kind. Attackers that
            cannot find it by design (untrained ones, or those that need the victim's critic) are spared with False.
        planted_budget: environment steps of that search.

    Raises:
        ConformanceError: something is wrong; the message lists everything that was found.
        UnknownNameError, ConfigError, PartitionError: no such class, variant, setting or partition.
    """
    variant = common.registered(variant)
    n, k = variant.n_agents, variant.n_adversaries
    if k == 0:
        raise ConfigError(f"{variant.id} has no adversaries, so nothing can be attacked. Choose one with -adv1.")
    partition = Partition.of(n, range(n - k, n)) if phi is None else Partition.parse(phi, n, k)
    fixed = isinstance(attacker, str) and attacker in fixed_attackers(variant)  # they play without training
    if isinstance(attacker, str):
        made: Any = make_attacker(attacker, variant, dict(settings or {}))
        found = type(made)
    else:
        found = attacker
    name = f"The attacker {attacker if fixed else getattr(found, '__name__', found)}"
    if not fixed:
        common.report(name, common.algorithm_problems(found, ("attack",)))
    if not isinstance(attacker, str):
        made = common.settled(found, settings)
    if victim is None:
        victim = MADDPG().train(variant, seed=0, budget=_VICTIM_STEPS)
    team = record(variant)
    problems: list[str] = []
    reports: list[Any] = []

    def attack(variant: VariantSpec, victim: Policy, phi: Partition, budget: int, callback: Any = None) -> Any:
        """Return the policy; what is wrong joins the problems, and an exception ends the check."""
        what = f"`attack` on {variant.id}"
        with common.Trial(problems, what) as trial:
            policy = made.attack(variant, victim, phi, seed=seed, budget=budget, callback=callback)
        problems.extend(common.step_problems(trial.steps, budget, what))
        if trial.error is not None:
            common.report(name, problems, trial.error)
        return policy

    before = _fingerprint(victim, team)
    policy = attack(variant, victim, partition, budget, reports.append)
    if not _unchanged(before, _fingerprint(victim, team)):
        problems.append("`attack` changes the victim: the team is frozen. Work on `copy.deepcopy(victim)`.")
    problems += common.progress_problems(reports, budget)
    wrong = _adversary_problems(policy, variant, victim, partition)
    problems += wrong
    if not wrong:
        if getattr(made, "trains", True):
            recording = record(variant, partition.adversaries)
            config = dataclasses.asdict(made.config) if hasattr(made, "config") else {}
            problems += saving_problems(policy, recording, found.__name__, config, seed)
        if not _same(policy, attack(variant, victim, partition, budget), variant, victim, partition):
            problems.append(
                f"two attacks with seed {seed}, the first with a callback, give different policies: everything must be "
                "drawn from the seed, and reports must change nothing."
            )
    if planted:
        weakness = planted_weakness(variant.layout.discrete)
        game = (weakness.variant, weakness.victim, weakness.phi)
        policy = attack(*game, planted_budget)
        problems += _adversary_problems(policy, *game) or _search_problems(policy, weakness, planted_budget)
    common.report(name, problems)


def _adversary_problems(policy: Any, variant: VariantSpec, victim: Policy, phi: Partition) -> list[str]:
    """Say what is wrong with the adversaries' policy; one that must be told everything is only played."""
    if not _is_knowing(policy):
        return list(policy_problems(policy, record(variant, phi.adversaries)))
    try:
        rollout(variant, victim, phi, policy, range(BATCH))
    except Exception as error:
        return [f"its policy: it raises {common.told(error)}."]
    return []


def _search_problems(policy: Policy, weakness: Planted, budget: int) -> list[str]:
    """Say whether an attack missed the planted weakness: half of what the trigger costs must be gone."""
    left = rollout(weakness.variant, weakness.victim, weakness.phi, policy, range(_EPISODES)).returns.mean()
    if left <= (weakness.quiet + weakness.worst) / 2 + 1e-6:
        return []
    return [
        f"in {budget:,} steps it does not find the planted weakness of {weakness.variant.id} ({weakness.trigger}): the "
        f"team still gets {left:.2f}, where {weakness.quiet:.2f} is left without the trigger and {weakness.worst:.2f} "
        "with it. If it cannot by design, say planted=False."
    ]


def _same(one: Any, other: Any, variant: VariantSpec, victim: Policy, phi: Partition) -> bool:
    """Whether two policies of the adversaries play alike."""
    if not _is_knowing(one):
        return alike(one, other, record(variant, phi.adversaries))
    first, second = (rollout(variant, victim, phi, policy, range(BATCH)).returns for policy in (one, other))
    return np.array_equal(first, second)


def _is_knowing(policy: Any) -> bool:
    return isinstance(policy, Knowing)


def _fingerprint(victim: Policy, team: Recording) -> list[np.ndarray]:
    """Return all numbers of a team's networks, and how it plays."""
    networks = [
        value for _, value in sorted(getattr(victim, "__dict__", {}).items()) if isinstance(value, torch.nn.Module)
    ]
    numbers = [value.numpy().copy() for network in networks for value in network.state_dict().values()]
    return [*numbers, *replay(victim, team.steps)]


def _unchanged(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
    return len(before) == len(after) and all(map(np.array_equal, before, after))

"""What every attack needs: a partition of the variant with somebody on either side, and a budget."""

from __future__ import annotations

from mir2bench.engines.base import Worlds, check_attack_reward
from mir2bench.errors import ConfigError, PartitionError
from mir2bench.partition import Partition
from mir2bench.registration import VariantSpec


def check_attack(name: str, variant: VariantSpec, phi: Partition, budget: int | None = None) -> None:
    """Raise unless there is something to attack, and somebody to do it.

    Args:
        name: of the attacker, for messages.
        variant, phi: the world and who is adversarial.
        budget: environment steps; None for attackers that need no training.

    Raises:
        PartitionError: the variant has no adversaries, or phi does not fit it, names nobody or everybody.
        UnknownNameError: the world has no such reward channel as the variant's `attack_reward`.
        ConfigError: the budget is not positive.
    """
    if variant.n_adversaries == 0:
        raise PartitionError(
            f"{variant.id} has no adversaries, so there is nothing for the attacker `{name}` to play. "
            "Choose a variant with `-adv1` or more."
        )
    Partition.parse(phi, variant.n_agents, variant.n_adversaries)
    if phi.weight == 0:
        raise PartitionError(f"the attacker `{name}` needs a partition with at least one adversary, but phi is all 0.")
    if phi.weight == variant.n_agents:
        raise PartitionError(
            f"phi makes all {phi.weight} agents adversarial, which leaves the attacker `{name}` no team to attack. "
            "Leave at least one entry 0."
        )
    check_attack_reward(variant, Worlds(variant, 1, threads=1).engine)
    if budget is not None and budget < 1:
        raise ConfigError(f"the budget must be 1 step or more, but it is {budget}.")

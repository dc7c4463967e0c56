"""Attackers that need no training: random, idle, and each family's scripted worst behaviors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mir2bench.attackers.checks import check_attack
from mir2bench.learning.progress import Callback
from mir2bench.partition import Partition
from mir2bench.policies import Policy, build_scripted
from mir2bench.registration import VariantSpec

_ANYWHERE = {"idle": "mir2bench.policies:IdlePolicy", "random": "mir2bench.policies:RandomPolicy"}


@dataclass(frozen=True)
class FixedAttacker:
    """An attacker whose policy exists already.

    Attributes:
        name: as on command lines.
        policy: "module:Class" of a policy whose constructor takes the layout.
    """

    name: str
    policy: str
    trains: ClassVar[bool] = False

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
        """Build the policy; victim, seed and budget do not matter.

        Raises:
            PartitionError: see `check_attack`.
        """
        check_attack(self.name, variant, phi)
        return build_scripted(self.policy, variant)


def fixed_attackers(variant: VariantSpec) -> dict[str, FixedAttacker]:
    """Return all attackers for a variant that need no training, by name."""
    return {n: FixedAttacker(n, p) for n, p in {**_ANYWHERE, **variant.engine_class.scripted_traitors}.items()}

"""Attackers that need no training: random, idle, and each family's scripted worst behaviors."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from mir2bench.learning.progress import Callback
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

_ANYWHERE = {"idle": "mir2bench.policies:IdlePolicy", "random": "mir2bench.policies:RandomPolicy"}


@dataclass(frozen=True)
class FixedAttacker:
    """An attacker whose policy exists already.

    Attributes:
        policy: "module:Class" of a policy whose constructor takes the layout.
    """

    policy: str

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
        """Build the policy; victim, phi, seed and budget do not matter."""
        return _build(self.policy, variant)


def _build(policy: str, variant: VariantSpec) -> Policy:
    module, _, name = policy.partition(":")
    return getattr(importlib.import_module(module), name)(variant.layout)


def fixed_attackers(variant: VariantSpec) -> dict[str, FixedAttacker]:
    """Return all attackers for a variant that need no training, by name."""
    return {name: FixedAttacker(p) for name, p in {**_ANYWHERE, **variant.engine_class.scripted_traitors}.items()}


def scripted_traitors(variant: VariantSpec) -> list[Policy]:
    """Return the family's scripted worst behaviors."""
    return [_build(policy, variant) for policy in variant.engine_class.scripted_traitors.values()]

"""Attackers: how a worst case is found for one frozen team and one partition."""

from __future__ import annotations

from typing import Any, Protocol

from mir2bench.attackers.fixed import fixed_attackers
from mir2bench.errors import unknown_name
from mir2bench.learning.progress import Callback
from mir2bench.partition import Partition
from mir2bench.plugins import find_class, known_names, make_config, recommended, warn_of_clash
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

_BUILTIN = {
    "greedy": "mir2bench.attackers.greedy:GreedyAttacker",
    "learned": "mir2bench.attackers.learned:LearnedAttacker",
    "sb3-ppo": "mir2bench.attackers.sb3:Sb3PpoAttacker",
}


class Attacker(Protocol):
    """How a worst case is found for one frozen policy and one phi.

    A class attribute `trains` may say whether it takes training; left out, it does. What needs none is made anew
    wherever it plays, and never kept in a bundle.
    """

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
        """Return a policy of the K adversaries, found within `budget` environment steps."""
        ...


def list_attackers(variant: VariantSpec) -> list[str]:
    """Return the names of all attackers for a variant, third-party ones included."""
    return sorted({*known_names("attacker", _BUILTIN), *fixed_attackers(variant)})


def is_trained(name: str, variant: VariantSpec) -> bool:
    """Whether an attacker takes training; see `Attacker`.

    Args:
        name, variant: see `make_attacker`.

    Raises:
        UnknownNameError, ConfigError: no such attacker.
    """
    return bool(getattr(make_attacker(name, variant), "trains", True))


def make_attacker(name: str, variant: VariantSpec, settings: dict[str, Any] | None = None) -> Attacker:
    """Build an attacker.

    Args:
        name: one of `list_attackers`, or "package.module:Class".
        variant: the world; its family's scripted behaviors are known by name.
        settings: fields of the attacker's `Config` that differ from the defaults and from what the variant recommends.

    Raises:
        UnknownNameError, ConfigError: no such attacker or setting.
    """
    fixed = fixed_attackers(variant)
    if name in fixed:
        warn_of_clash("attacker", name)
        if settings:
            raise unknown_name("setting", next(iter(settings)), [])
        return fixed[name]
    if ":" not in name and name not in list_attackers(variant):
        raise unknown_name("attacker", name, list_attackers(variant))
    found = find_class("attacker", name, _BUILTIN, ("attack",))
    if settings and not hasattr(found, "Config"):
        raise unknown_name("setting", next(iter(settings)), [])
    if not hasattr(found, "Config"):
        return found()
    chosen = {**recommended(name, found.Config, variant, shared=False), **(settings or {})}
    return found(make_config(found.Config, chosen))

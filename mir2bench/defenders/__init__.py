"""Defenders: how a team policy is trained. Each file shows its whole update rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mir2bench.learning.progress import Callback
from mir2bench.plugins import find_class, known_names, make_config, recommended
from mir2bench.policies import Policy
from mir2bench.registration import VariantSpec

_BUILTIN = {
    "advtrain": "mir2bench.defenders.advtrain:AdversarialTraining",
    "ernie": "mir2bench.defenders.ernie:ERNIE",
    "m3ddpg": "mir2bench.defenders.m3ddpg:M3DDPG",
    "maddpg": "mir2bench.defenders.maddpg:MADDPG",
    "mir2": "mir2bench.defenders.mir2:MIR2",
    "romax": "mir2bench.defenders.romax:ROMAX",
    "romq": "mir2bench.defenders.romq:ROMQ",
}


class Defender(Protocol):
    """How a team policy is trained.

    One whose `train` has a further keyword `checkpoint` (`learning.state.Keeper` or None) is given one, and continues
    from what it holds.

    Attributes:
        Config: a frozen dataclass, every field documented, defaults in Python.
    """

    Config: type

    def train(self, variant: VariantSpec, *, seed: int, budget: int, callback: Callback | None = None) -> Policy:
        """Train on `budget` environment steps and return the last policy."""
        ...


def list_defenders() -> list[str]:
    """Return the names of all defenders, third-party ones included."""
    return known_names("defender", _BUILTIN)


def get_defender(name: str) -> Any:
    """Return a defender's class: `get_defender("mir2")(config).train(...)`.

    Raises:
        UnknownNameError, ConfigError: see `plugins.find_class`.
    """
    return find_class("defender", name, _BUILTIN, ("Config", "train"))


def make_defender(name: str, variant: VariantSpec, settings: Mapping[str, Any] | None = None) -> Any:
    """Build a defender with the settings that a variant recommends: `make_defender("mir2", spec).train(spec, ...)`.

    Args:
        name: one of `list_defenders`, or "package.module:Class".
        variant: the world.
        settings: fields of its `Config` that differ from the defaults and from what the variant recommends.

    Raises:
        UnknownNameError, ConfigError: no such defender or setting.
    """
    defender = get_defender(name)
    config = defender.Config
    return defender(make_config(config, {**recommended(name, config, variant, shared=True), **(settings or {})}))

"""Conformance checks for what third parties add: worlds, defenders and attackers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mir2bench.testing.attackers import check_attacker
    from mir2bench.testing.defenders import check_defender
    from mir2bench.testing.environments import check_env

__all__ = ["check_attacker", "check_defender", "check_env"]
_MODULES = {"check_attacker": "attackers", "check_defender": "defenders", "check_env": "environments"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # a check of environments needs no torch
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

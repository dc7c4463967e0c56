"""mir2bench: a benchmark for cooperative multi-agent RL whose members may turn into adversaries.

    import gymnasium, mir2bench
    env = gymnasium.make("mir2bench/Rendezvous10-adv1-v0")

Importing the package registers every variant and nothing more: the physics, torch and all else load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mir2bench.partition import Partition, enumerate_partitions, sample_partitions
from mir2bench.registration import VariantSpec, ensure_registered, list_variants, register, spec

if TYPE_CHECKING:
    from mir2bench.policies import load_policy
    from mir2bench.views.attacker_env import AttackerEnv
    from mir2bench.views.defender_env import DefenderEnv
    from mir2bench.views.parallel_env import parallel_env

__version__ = "0.1.0"

_LAZY = {
    "AttackerEnv": "mir2bench.views.attacker_env",
    "DefenderEnv": "mir2bench.views.defender_env",
    "parallel_env": "mir2bench.views.parallel_env",
    "load_policy": "mir2bench.policies",
}

__all__ = [
    "AttackerEnv",
    "DefenderEnv",
    "Partition",
    "VariantSpec",
    "__version__",
    "enumerate_partitions",
    "list_variants",
    "load_policy",
    "parallel_env",
    "register",
    "sample_partitions",
    "spec",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mir2bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


ensure_registered()

"""Which registered variants can be made here."""

from __future__ import annotations

import mir2bench
from mir2bench.engines.base import Worlds
from mir2bench.errors import MissingDependencyError

OUTSIDE = ("SMAC",)  # families of outside programs: starting them by the hundred is no test


def makeable() -> list[str]:
    """Return the ids of all variants whose packages are installed, but for families of outside programs."""
    ids = []
    for id in mir2bench.list_variants():
        if mir2bench.spec(id).family in OUTSIDE:
            continue
        try:
            Worlds(mir2bench.spec(id), 1, threads=1)
        except MissingDependencyError:
            continue
        ids.append(id)
    return ids

"""What a training run tells its caller while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """One report.

    Attributes:
        steps: environment steps done so far.
        budget: environment steps in all.
        metrics: name -> value; "greedy_return" (team return per episode) is there whenever it was measured.
    """

    steps: int
    budget: int
    metrics: dict[str, float] = field(default_factory=dict)


Callback = Callable[[Progress], None]

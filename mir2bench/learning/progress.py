"""What a training run tells its caller while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

GREEDY_RETURN, GREEDY_WINS = "greedy_return", "greedy_win_rate"
"""Metrics of defenders: team return per episode, and the share of episodes won in families that know victory."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One report.

    Attributes:
        steps: environment steps done so far.
        budget: environment steps in all.
        metrics: name -> value; `GREEDY_RETURN` and `GREEDY_WINS` are there whenever they were measured.
        note: something else to tell the user, in place of all others.
    """

    steps: int
    budget: int
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""


Callback = Callable[[Progress], None]

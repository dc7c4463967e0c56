"""How fast worlds, training and whole protocols are on this machine.

All figures are medians over several rounds in which the things compared take turns, so that a machine whose speed
drifts still gives honest ratios.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mir2bench.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing.

    Attributes:
        name: what was measured.
        unit: unit of the numbers.
        median, low, high: over the rounds.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, unit: str, seen: list[float]) -> Figure:
        """Summarize the rounds."""
        return cls(name, unit, float(np.median(seen)), float(min(seen)), float(max(seen)))


def compare(work: dict[str, Callable[[], float]], unit: str, rounds: int) -> list[Figure]:
    """Call every function once per round, in turn, and summarize what each returned; see `timing.take_turns`.

    Args:
        work: name -> function that does a fixed amount of work and returns its rate or time.
        unit: unit of what the functions return.
        rounds: counted rounds.
    """
    from mir2bench.analysis.timing import take_turns

    return [Figure.of(name, unit, seen) for name, seen in take_turns(work, rounds).items()]


@dataclass(frozen=True)
class Options:
    """What the benchmarks' command lines share."""

    rounds: int = 7
    """Counted rounds, of which the median is shown."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Where to write the figures with versions and hardware."""

    def check(self) -> None:
        """Refuse what cannot be done before anything is measured.

        Raises:
            ConfigError: no rounds, or nowhere to write.
        """
        if self.rounds < 1:
            raise ConfigError(f"--rounds must be 1 or more, but it is {self.rounds}.")
        file = self.json_file
        if file is None:
            return
        folder = file.absolute().parent
        if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(
                f"cannot write {file}: its folder does not exist or is read-only, or it is a folder itself."
            )

    def measure(self) -> list[Figure]:
        """Measure, and return the figures in the order in which they are shown."""
        raise NotImplementedError

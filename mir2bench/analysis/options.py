"""What the analyses' command lines share."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

_ELSEWHERE = {"out", "workers", "resume"}  # where and how fast it runs: no part of what is computed
_FLAGS = {"settings": "set"}


@dataclass(frozen=True)
class Options:
    """Where an analysis plays and where it writes."""

    env: str = "Rendezvous10-adv1-v0"
    """Variant."""
    out: Path | None = None
    """Folder to write; the default is runs/<date-time>-<analysis>."""


@dataclass(frozen=True)
class StudyOptions(Options):
    """Options of an analysis that trains defenders or attackers."""

    budget: str = "quick"
    """How much work: smoke, quick, standard or paper."""
    seeds: int | None = None
    """Training seeds per defender; the default is the budget's number."""
    workers: int | None = None
    """Processes; the default is one per core. The results do not depend on it."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the analysis in --out where it stopped."""


def command_line(name: str, options: Any) -> str:
    """Return the command that does the same work; where and how fast it runs is left out.

    Args:
        name: the analysis.
        options: its dataclass; fields that have their default are left out.
    """
    words = ["python", "-m", "mir2bench.analyze", name]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in _ELSEWHERE or value == field.default:
            continue
        words.append(f"--{_FLAGS.get(field.name, field.name.replace('_', '-'))}")
        if value is not True:
            words += map(str, value if isinstance(value, tuple | list) else (value,))
    return shlex.join(words)
